package notation

import (
	"errors"
	"strings"
)

// SplitCommand splits a command line into arguments as a shell would, without
// anything else that a shell does: no variables, patterns, pipes or substitutions.
// Spaces separate. Single quotes keep everything; in double quotes a backslash
// escapes ", \, $ and `; outside of quotes it escapes any character, and a line's
// end after it joins the lines. $NAME stays as it is.
//
// What a shell would act upon is refused rather than passed on as text, so that
// nobody believes that "a && b" runs two programs.
func SplitCommand(s string) ([]string, error) {
	var (
		args  []string
		arg   strings.Builder
		begun bool // an argument has begun, maybe an empty one in quotes
	)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch c {
		case 0:
			return nil, errors.New("it holds a zero byte")
		case ' ', '\t', '\n', '\r':
			if begun {
				args = append(args, arg.String())
				arg.Reset()
				begun = false
			}
		case '\'':
			end := strings.IndexByte(s[i+1:], '\'')
			if end < 0 {
				return nil, errors.New("a single quote is not closed")
			}
			arg.WriteString(s[i+1 : i+1+end])
			begun = true
			i += end + 1
		case '"':
			begun = true
			for i++; ; i++ {
				if i >= len(s) {
					return nil, errors.New("a double quote is not closed")
				}
				if s[i] == '"' {
					break
				}
				if s[i] == '\\' && i+1 < len(s) && strings.IndexByte("\"\\$`\n", s[i+1]) >= 0 {
					i++
					if s[i] == '\n' {
						continue
					}
				}
				arg.WriteByte(s[i])
			}
		case '\\':
			if i++; i >= len(s) {
				return nil, errors.New("it ends with a backslash")
			}
			if s[i] == '\n' {
				continue
			}
			arg.WriteByte(s[i])
			begun = true
		case '|', '&', ';', '<', '>', '(', ')', '`':
			return nil, errors.New("no shell runs it, and " + string(c) + ` means something only to a shell; quote it, or write [sh, -c, "..."]`)
		default:
			arg.WriteByte(c)
			begun = true
		}
	}
	if begun {
		args = append(args, arg.String())
	}
	for _, a := range args {
		if strings.IndexByte(a, 0) >= 0 {
			return nil, errors.New("it holds a zero byte")
		}
	}
	return args, nil
}
