//go:build tools

// Package tools names the programs that the tests of the backups use; the Makefile builds them.
package tools

import (
	_ "github.com/mongodb/mongo-tools/mongodump/main"
	_ "github.com/mongodb/mongo-tools/mongorestore/main"
)
