// A MongoDB-protocol server for the tests of machines without a mongod: FerretDB on SQLite files.
//
//	mongo-server PORT DIRECTORY
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/FerretDB/FerretDB/build/version"
	"github.com/FerretDB/FerretDB/ferretdb"
)

// claimVersion makes the server one that mongorestore can talk to: FerretDB says that it is MongoDB 7.0.42, but
// refuses bypassEmptyTsReplacement, which inserts have since 7.0.13.
func claimVersion() {
	claimed := version.Get()
	claimed.MongoDBVersion = "7.0.12"
	if err := claimed.MongoDBVersionArray.Set(2, int32(12)); err != nil {
		log.Fatal(err)
	}
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: mongo-server PORT DIRECTORY")
	}
	claimVersion()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: "127.0.0.1:" + os.Args[1]},
		Handler:   "sqlite",
		SQLiteURL: "file:" + os.Args[2] + "/",
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := server.Run(ctx); err != nil {
		log.Fatal(err)
	}
}
