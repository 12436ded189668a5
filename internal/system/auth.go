package system

import (
	"slices"
	"strings"
	"time"

	"fairlead/internal/system/document"
	"fairlead/internal/system/notation"
	"fairlead/internal/system/wording"
)

var (
	authSchema = schema{what: "gateway.auth", keys: []string{"jwt", "basic", "keys", "forward"}}
	jwtSchema  = schema{
		what: "gateway.auth.jwt",
		keys: []string{"jwks", "algorithms", "issuer", "audience", "roles_claim", "leeway"},
	}
	basicSchema      = schema{what: "gateway.auth.basic", keys: []string{"realm", "users"}}
	keysSchema       = schema{what: "gateway.auth.keys", keys: []string{"header", "keys"}}
	credentialSchema = schema{what: "a user or key", keys: []string{"secret", "roles"}}
	forwardSchema    = schema{
		what: "gateway.auth.forward",
		keys: []string{"service", "path", "headers", "timeout", "subject_header", "roles_header"},
	}
)

func (r *reader) readAuth(n *document.Node) Auth {
	f := r.fields(n, authSchema)
	var out Auth
	if jwt := f["jwt"]; jwt != nil {
		out.JWT = r.readJWT(jwt)
	}
	if basic := f["basic"]; basic != nil {
		f := r.fields(basic, basicSchema)
		out.Basic = &Basic{Realm: r.sys.Name, Users: r.credentials(basic, basicSchema, f["users"], "users")}
		if realm := f["realm"]; realm != nil {
			out.Basic.Realm = r.notEmpty(realm, "name what people log in to, or remove the key")
			if !notation.IsHeaderValue(out.Basic.Realm) {
				r.rec.add(realm.At, realm.Path, badHeaderValue)
			}
		}
	}
	if keys := f["keys"]; keys != nil {
		f := r.fields(keys, keysSchema)
		out.Keys = &Keys{Header: r.headerName(f["header"], "X-API-Key"), Keys: r.credentials(keys, keysSchema, f["keys"], "keys")}
	}
	if forward := f["forward"]; forward != nil {
		out.Forward = r.readForward(forward)
	}
	return out
}

// credentials reads who knows which secret: NAME: SECRET, or NAME: {secret, roles}.
// parent is the map that the list belongs to, under key.
func (r *reader) credentials(parent *document.Node, s schema, n *document.Node, key string) []Credential {
	if n == nil {
		r.missing(parent, s, key, "name each with its secret, as in {ops: OPS_PASSWORD}")
		return nil
	}
	const most = 1000
	if len(n.Items) > most {
		r.rec.add(n.KeyAt, n.Path, tooMany, "1000", len(n.Items), "ask a service for so many: forward")
		return nil
	}
	entries := r.entries(n, "secrets by name")
	if n.Kind == document.Mapping && len(n.Items) == 0 {
		r.rec.add(n.At, n.Path, emptyValue, "name each with its secret, as in {ops: OPS_PASSWORD}")
	}
	var out []Credential
	secretOf := map[string]string{}
	for _, m := range entries {
		if !notation.IsWord(m.Key, "._-@+") {
			r.rec.add(m.KeyAt, m.Path, badName, wording.Quote(m.Key), "a name of letters, digits and . _ - @ +, at most 64", "")
		}
		c := Credential{Name: m.Key}
		secret := m
		if !m.Scalar() {
			f := r.fields(m, credentialSchema)
			secret = f["secret"]
			c.Roles = r.roles(f["roles"])
			if secret == nil {
				r.missing(m, credentialSchema, "secret", "name the secret that is known")
				continue
			}
		}
		if c.Secret = r.secret(secret); c.Secret == "" {
			continue
		}
		if other, ok := secretOf[c.Secret]; ok && s.what == keysSchema.what {
			r.rec.add(secret.At, secret.Path, sharedKey, c.Secret, other)
		}
		secretOf[c.Secret] = c.Name
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Credential) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// roles reads a role or a list of roles.
func (r *reader) roles(n *document.Node) []string {
	var out []string
	for _, item := range r.texts(n, true) {
		if !notation.IsWord(item.Text, "._-:") {
			r.rec.add(item.At, item.Path, badRole, wording.Quote(item.Text))
			continue
		}
		out = append(out, item.Text)
	}
	return out
}

func (r *reader) readForward(n *document.Node) *Forward {
	f := r.fields(n, forwardSchema)
	out := &Forward{
		Path:          r.urlPath(f["path"], "/"),
		Headers:       r.headerNames(f["headers"]),
		Timeout:       r.duration(f["timeout"], 5*time.Second, time.Millisecond, 5*time.Minute),
		SubjectHeader: r.headerName(f["subject_header"], ""),
		RolesHeader:   r.headerName(f["roles_header"], ""),
	}
	if f["service"] == nil {
		r.missing(n, forwardSchema, "service", "name the service that is asked about each request")
		return out
	}
	out.Service, _ = r.text(f["service"])
	return out
}

// urlPath reads the path of a request that the gateway makes itself.
func (r *reader) urlPath(n *document.Node, def string) string {
	s, ok := r.text(n)
	switch {
	case !ok:
		return def
	case !strings.HasPrefix(s, "/") || strings.ContainsAny(s, " \t\r\n#") || len(s) > 1024:
		r.rec.add(n.At, n.Path, badPath, "must begin with /", "name the path to ask, as in /healthz")
		return def
	}
	return s
}

func (r *reader) readJWT(n *document.Node) *JWT {
	f := r.fields(n, jwtSchema)
	out := &JWT{Algorithms: []string{"EdDSA"}, RolesClaim: "roles"}
	for key, to := range map[string]*string{"issuer": &out.Issuer, "audience": &out.Audience} {
		if f[key] == nil {
			r.missing(n, jwtSchema, key, "a token is accepted only from the "+key+" that is named here")
			continue
		}
		*to = r.notEmpty(f[key], "write what the tokens hold")
	}
	if claim := f["roles_claim"]; claim != nil {
		out.RolesClaim = r.notEmpty(claim, "name the claim that lists the roles, or remove the key")
	}
	if algorithms := f["algorithms"]; algorithms != nil {
		known := []string{"EdDSA", "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
		out.Algorithms = nil
		for _, item := range r.texts(algorithms, false) {
			if strings.HasPrefix(item.Text, "HS") || item.Text == "none" {
				r.rec.add(item.At, item.Path, notOneOf, wording.Enumerate(known, "or"), wording.Quote(item.Text),
					"whoever can check such a token can make one")
				continue
			}
			out.Algorithms = append(out.Algorithms, r.oneOf(item, "", known...))
		}
		if algorithms.Kind == document.List && len(algorithms.Items) == 0 {
			r.rec.add(algorithms.At, algorithms.Path, emptyValue, "name an algorithm, or remove the key for EdDSA")
		}
	}
	out.Leeway = r.duration(f["leeway"], 30*time.Second, 0, 10*time.Minute)
	jwks := f["jwks"]
	if jwks == nil {
		r.missing(n, jwtSchema, "jwks", "write bus:SUBJECT or file:PATH, where the keys are that verify tokens")
		return out
	}
	s, ok := r.text(jwks)
	if !ok {
		return out
	}
	if subject, ok := strings.CutPrefix(s, "bus:"); ok {
		if err := notation.CheckSubject(subject, false); err != nil {
			r.rec.add(jwks.At, jwks.Path, badSubject, err)
			return out
		}
		out.JWKS = s
	} else if path, ok := strings.CutPrefix(s, "file:"); ok {
		file := *jwks
		file.Text = path
		out.JWKS = "file:" + r.file(&file, false)
	} else {
		r.rec.add(jwks.At, jwks.Path, badJWKS, wording.Quote(s))
	}
	return out
}
