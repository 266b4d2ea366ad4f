// Package check holds the measurements that the documents state.
//
// It is a module of its own, so that the libraries that Larder is compared with are no dependencies of Larder.
package check
