package system

// code names a diagnostic. Codes are stable: programs that read findings as data
// may rely on them.
type code string

// The diagnostics.
const (
	// About the file as a whole; what is wrong with its text is told by document.
	emptyFile       code = "empty-file"
	tooManyProblems code = "too-many-problems"

	// About keys.
	unknownKey  code = "unknown-key"
	notBuilt    code = "not-built"
	startOrder  code = "start-order"
	missingKey  code = "missing-key"
	noValue     code = "no-value"
	emptyValue  code = "empty-value"
	wrongType   code = "wrong-type"
	misplaced   code = "misplaced-key"
	exactlyOne  code = "exactly-one"
	tooMany     code = "too-many"
	duplicateIn code = "duplicate-item"

	// A key that is written twice is told by document; one that means what another does
	// is told here, in the same words.
	duplicateKey code = "duplicate-key"

	// About values.
	badName        code = "bad-name"
	notOneOf       code = "not-one-of"
	outOfRange     code = "out-of-range"
	badDuration    code = "bad-duration"
	badSize        code = "bad-size"
	badAddress     code = "bad-address"
	notLoopback    code = "not-loopback"
	badCommand     code = "bad-command"
	badVariable    code = "bad-variable"
	takenVariable  code = "taken-variable"
	takenName      code = "taken-name"
	badPath        code = "bad-path"
	notFound       code = "not-found"
	badSubject     code = "bad-subject"
	wideSubject    code = "wide-subject"
	closedSubject  code = "closed-subject"
	badPattern     code = "bad-pattern"
	badJWKS        code = "bad-jwks"
	badRole        code = "bad-role"
	badStatus      code = "bad-status"
	badReference   code = "bad-reference"
	badNetwork     code = "bad-network"
	badHeader      code = "bad-header"
	closedHeader   code = "closed-header"
	badHeaderValue code = "bad-header-value"
	badOrigin      code = "bad-origin"
	badHost        code = "bad-host"
	badURL         code = "bad-url"
	badAccount     code = "bad-account"
	badEmail       code = "bad-email"
	badText        code = "bad-text"
	badDate        code = "bad-date"
	badField       code = "bad-field"
	secretInFile   code = "secret-in-file"
	loginHeader    code = "login-header"

	// About routes.
	badRoute        code = "bad-route"
	sameRoute       code = "same-route"
	conflict        code = "conflicting-routes"
	unknownValue    code = "unknown-path-value"
	unanswered      code = "unanswered"
	answeredTwice   code = "answered-twice"
	patternFormat   code = "pattern-format"
	roleWithoutAuth code = "role-without-auth"
	roleless        code = "role-without-roles"
	notConfigured   code = "auth-not-configured"
	openMonitor     code = "open-monitor"
	badTemplate     code = "bad-template"
	noShare         code = "no-share"
	bodyOverBus     code = "body-over-bus"

	// About what belongs together.
	unknownService  code = "unknown-service"
	unknownSecret   code = "unknown-secret"
	unknownDatabase code = "unknown-database"
	notOwner        code = "not-owner"

	// About queues and types.
	unknownType    code = "unknown-type"
	notJSON        code = "not-json"
	badSchema      code = "bad-schema"
	unknownKeyword code = "unknown-keyword"
	sharedSubjects code = "shared-subjects"
	queueAnswered  code = "queue-answered"
	noQueue        code = "no-queue"
	outsideQueue   code = "outside-queue"
	answeredHeard  code = "answered-heard"
	countedMarkers code = "dedupe-counted"
	claimless      code = "claim-without-user"

	// About the bus.
	takenUser     code = "taken-user"
	grantsNothing code = "grants-nothing"
	doorListener  code = "door-listener"
	generated     code = "generated-secret"
	notEnforced   code = "permissions-not-enforced"

	// About listeners and TLS.
	sameListener     code = "same-listener"
	withoutTLS       code = "without-tls"
	redirectNowhere  code = "redirect-nowhere"
	noCertificate    code = "no-certificate"
	badCertificate   code = "bad-certificate"
	noAuthorities    code = "no-authorities"
	acmeWithoutHosts code = "acme-without-hosts"
	anyOrigin        code = "any-origin"
	sharedKey        code = "shared-key"

	// About environments.
	removesNothing code = "removes-nothing"
	fixedKey       code = "fixed-key"
)

// words are how a diagnostic is told, as formats of the same arguments.
type words struct{ problem, advice string }

// problems are the words of every diagnostic.
var problems = map[code]words{
	emptyFile:       {"holds nothing", "begin with system: NAME"},
	tooManyProblems: {"has more than %[1]d problems, the rest is not shown", "correct these first"},

	unknownKey:   {"is not a key of %[1]s", "%[2]s"},
	notBuilt:     {"is not built yet", "%[1]s"},
	startOrder:   {"there is no start order", "anything may start, stop or vanish at any time; whoever needs it waits, bounded, or is told what is missing: remove this key"},
	missingKey:   {"is missing", "%[1]s"},
	noValue:      {"has no value", "%[1]s"},
	emptyValue:   {"is empty", "%[1]s"},
	wrongType:    {"must be %[1]s, is %[2]s", "%[3]s"},
	misplaced:    {"does not belong %[1]s", "%[2]s"},
	exactlyOne:   {"must have exactly one of %[1]s, has %[2]s", "%[3]s"},
	tooMany:      {"must be at most %[1]s, are %[2]d", "%[3]s"},
	duplicateKey: {"is already set at %[1]s", "keep one of the two"},
	duplicateIn:  {"is already in the list at %[1]s", "remove one of the two"},

	badName:        {"must be %[2]s, is %[1]s", "%[3]s"},
	notOneOf:       {"must be %[1]s, is %[2]s", "%[3]s"},
	outOfRange:     {"must be %[1]s, is %[2]s", "%[3]s"},
	badDuration:    {"must be a duration, is %[1]s", "write a number with ms, s, m, h or d, as in 30s, 1h30m or 7d"},
	badSize:        {"must be a size, is %[1]s", "write whole bytes, or a whole number with KiB, MiB or GiB, as in 10MiB"},
	badAddress:     {"must be host:port, is %[1]s", "%[2]s"},
	notLoopback:    {"must be a loopback address, is %[1]s", "the bus has no TLS yet and is for this machine only: write 127.0.0.1:PORT"},
	badCommand:     {"cannot be split: %[1]s", "quote as in a shell, or write a list of arguments"},
	badVariable:    {"is not the name of a variable", "write letters, digits and _, not beginning with a digit"},
	takenName:      {"is a name of fairlead's own", "choose another name"},
	takenVariable:  {"is set by %[1]s", "%[2]s"},
	badPath:        {"%[1]s", "%[2]s"},
	notFound:       {"does not exist: %[1]s", "%[2]s"},
	badSubject:     {"is not a subject: %[1]s", "write tokens with dots between them, as in orders.created; * stands for one token, a last > for the rest"},
	wideSubject:    {"begins with a wildcard, which would cover the replies of other services", "write the first token out, as in orders.>"},
	closedSubject:  {"begins with %[1]q, which belongs to fairlead and NATS", "%[2]s"},
	badPattern:     {"is not a NestJS pattern: %[1]s", "write a map of plain words, as in {cmd: findAll, area: flows}"},
	badJWKS:        {"must be bus:SUBJECT or file:PATH, is %[1]s", `write bus:auth.jwks to ask the service that answers it`},
	badRole:        {"must be a role, is %[1]s", "write letters, digits and . _ - : without spaces"},
	badStatus:      {"must be 400 to 599, is %[1]s", "an error is answered with the status of an error"},
	badNetwork:     {"must be a network or an address, is %[1]s", "%[2]s"},
	badHeader:      {"must be the name of a header, is %[1]s", "write letters, digits and dashes, as in X-Tenant"},
	closedHeader:   {"is %[1]s, which is the gateway's own", "remove it: the gateway sets such headers from what it knows"},
	badHeaderValue: {"must be the value of a header: one line, no spaces around it, at most 4096", "write it on one line"},
	badOrigin:      {"must be an origin, is %[1]s", "%[2]s"},
	badHost:        {"must be a host, is %[1]s", "%[2]s"},
	badURL:         {"must be a URL, is %[1]s", "%[2]s"},
	badAccount:     {"must be the public key of an account, is %[1]s", "it has 56 letters and digits and begins with A: nsc describe account"},
	badEmail:       {"must be an e-mail address, is %[1]s", "write it as in ops@example.org"},
	badText:        {"must be a text of at most %[1]d characters without control characters", "shorten it"},
	badDate:        {"must be a day or a time, is %[1]s", "write it as in 2027-01-31 or 2027-01-31T18:00:00Z"},
	badField:       {"must be a field of the body or a header, is %[1]s", "write it as in body.id, body.order.number or header.X-Event-Id"},
	secretInFile:   {"holds a user or password", "the file never holds one: put the whole URL into a secret, and write url: {secret: NAME}"},
	loginHeader:    {"is %[1]s, with which clients log in", "remove it: whoever reads the queue could log in as they"},
	badReference:   {"is not a value of the request: %[1]s", "write $body, $query or $path, one value of it as in $path.id, $query.page or $body.user.name, $user.sub or $user.roles; $$ begins a text with a dollar"},

	badRoute:        {"is not a route: %[1]s", "%[2]s"},
	sameRoute:       {"matches the same requests as %[1]s at %[2]s", "keep one of the two"},
	conflict:        {"matches some requests that %[1]s at %[2]s matches too, and neither is more specific", "make one of the two paths more specific"},
	unknownValue:    {"uses {%[1]s}, which is not a value of the path", "%[2]s"},
	unanswered:      {"nobody answers %[1]s", "%[2]s"},
	answeredTwice:   {"%[1]s is answered by %[2]s", "one service answers a request; take the subject out of the answers of the others"},
	patternFormat:   {"is a NestJS pattern, but the format of %[1]s is raw", "set services.%[1]s.bus.format to nest, or name a subject"},
	roleWithoutAuth: {"needs to know who the user is%[1]s, but gateway.auth does not say how", "add gateway.auth.jwt, basic or keys, or remove %[2]s"},
	roleless:        {"can be had by nobody: gateway.auth.%[1]s does not say which roles a user has", "%[2]s"},
	notConfigured:   {"is not there: the gateway has no auth.%[1]s", "add gateway.auth.%[1]s, or remove it here"},
	openMonitor:     {"would be open to everybody", "%[1]s"},
	badTemplate:     {"must be %[1]s, is %[2]s", "%[3]s"},
	noShare:         {"gives no service a share", "give at least one a weight above 0"},
	bodyOverBus:     {"must be at most 1MiB over the bus, is %[1]s", "send large bodies to a service over HTTP: service: NAME"},

	unknownService:  {"there is no service %[1]s", "%[2]s"},
	unknownSecret:   {"there is no secret %[1]s", "%[2]s"},
	unknownDatabase: {"there is no database %[1]s", "%[2]s"},
	notOwner:        {"database %[1]s is owned by %[2]s", "one database, one owning service; ask %[2]s over the bus"},

	unknownType:    {"there is no type %[1]s", "%[2]s"},
	notJSON:        {"%[1]s %[2]s", "a type is a JSON Schema in a JSON file"},
	unknownKeyword: {"%[1]s has %[2]s, which is no keyword of JSON Schema 2020-12 and checks nothing", "%[3]s"},
	badSchema:      {"%[1]s is no schema of JSON Schema 2020-12: %[2]v", "correct the schema"},
	sharedSubjects: {"shares subjects with %[1]s at %[2]s", "a message is kept in one queue: make the subjects of one of the two narrower"},
	queueAnswered:  {"is answered by %[1]s too", "what is published to a queue is stored and confirmed by the bus, and is no request: use another subject for one of the two"},

	noQueue:        {"is in no queue: %[1]s", "%[2]s"},
	outsideQueue:   {"is not always in the queue %[1]s", "make the queue wider, or the subject narrower: what is published here must be kept"},
	answeredHeard:  {"is answered by %[1]s: clients would see the requests of others", "name subjects that services publish, and none that one answers"},
	countedMarkers: {"does not go with the queue %[1]s, which counts its messages: what tells duplicates would count too", "remove max_messages from the queue, and bound it by keep or max_bytes"},
	claimless:      {"uses {claim:%[1]s}, %[2]s", "%[3]s"},

	takenUser:     {"can be the name of %[1]s on the bus", "choose another name, and no number after a dash"},
	grantsNothing: {"is granted nothing", "name what the user publishes, subscribes or asks"},
	doorListener:  {"is the address %[1]s, which the gateway takes too", "keep one of the two"},
	generated:     {"names %[1]s, which fairlead makes up", "whoever runs the other server issues it: give it to the secret with env or file"},
	notEnforced:   {"is a server where permissions are not enforced: it knows this system by nothing, and whoever reaches it can do there what the system can", "add bus.credentials or bus.signing_key, a secret, or put a URL with user and password into one"},

	sameListener:     {"is the address %[1]s, which the listener at %[2]s takes too", "keep one of the two"},
	withoutTLS:       {"needs TLS, and this listener has none", "%[1]s"},
	redirectNowhere:  {"redirects to https, but no listener speaks TLS", "add gateway.tls and a listener for it, or remove redirect"},
	badCertificate:   {"%[1]s cannot be used as it is now: %[2]s", "it must be a PEM file of the certificate, the leaf first, and key one of its private key"},
	noAuthorities:    {"%[1]s holds no certificate as it is now", "it must be a PEM file of the authorities' certificates"},
	noCertificate:    {"names no source of certificates", "add certificate and key, acme, or internal: true"},
	acmeWithoutHosts: {"has no host to ask a certificate for", "write hosts: [shop.example.com], or name hosts in routes"},
	anyOrigin:        {`lets pages of every origin ask as the user`, "name the origins, or remove %[1]s"},
	sharedKey:        {"is the secret %[1]s, which %[2]s has too", "a key must tell who sends it: give each its own secret"},

	removesNothing: {"removes what is not there", "%[1]s"},
	fixedKey:       {"cannot differ between environments", "remove it here"},
}
