// Package check holds the tests of the Dockerfile, the Compose file and the Kubernetes manifests.
//
// It is a module of its own so that the Kubernetes, Compose and BuildKit libraries it reads them
// with never become dependencies of Larder.
package check
