package message

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// decode reads one JSON value that is within the bounds. Numbers keep their text.
func decode(data []byte, depth int) (any, error) {
	if err := bounded(data, depth); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("is empty")
		}
		return nil, errors.New("is no JSON (" + strings.TrimPrefix(err.Error(), "json: ") + ")")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("is no JSON (more follows after its value)")
	}
	return v, nil
}

// bounded looks at the nesting and at the numbers of a text that may be JSON, before
// anything is built of it.
func bounded(data []byte, most int) error {
	if !utf8.Valid(data) {
		return errors.New("is no JSON (not UTF-8)")
	}
	depth := 0
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			i = endOfText(data, i)
		case c == '{' || c == '[':
			if depth++; depth > most {
				return fmt.Errorf("is nested deeper than %d levels", most)
			}
		case c == '}' || c == ']':
			depth--
		case c == '-' || c >= '0' && c <= '9':
			from := i
			for i+1 < len(data) && strings.IndexByte("0123456789+-.eE", data[i+1]) >= 0 {
				i++
			}
			if err := smallNumber(data[from : i+1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// endOfText returns where the text that begins at i ends.
func endOfText(data []byte, i int) int {
	for i++; i < len(data) && data[i] != '"'; i++ {
		if data[i] == '\\' {
			i++ // what is escaped
		}
	}
	return i
}

// smallNumber refuses numbers that exact arithmetic would need much memory for.
func smallNumber(n []byte) error {
	if len(n) > MaxNumber {
		return fmt.Errorf("holds a number of more than %d characters", MaxNumber)
	}
	if i := bytes.IndexAny(n, "eE"); i >= 0 {
		exponent, err := strconv.Atoi(string(n[i+1:]))
		if err == nil && (exponent > MaxExponent || exponent < -MaxExponent) {
			return fmt.Errorf("holds a number with an exponent beyond %d", MaxExponent)
		}
	}
	return nil
}
