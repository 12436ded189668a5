// Package nest holds NestJS services and clients as teams write them, and the
// test, with the build tag real, that runs them behind fairlead's door with no
// change but the options of their connection. See fairlead.yaml and src.
package nest
