package storage

import (
	"bytes"
	"encoding/binary"
	"io"
)

// Podman's databases, below the storage: the later kind and the one before 5.0.
const (
	sqliteFile = "db.sql"
	boltFile   = "libpod/bolt_state.db"
)

// sqliteHeader begins each file of SQLite; boltMagic is in one of the first two pages of
// one of BoltDB.
var sqliteHeader = []byte("SQLite format 3\x00")

const boltMagic, boltMagicAt, boltPage = 0xED0CDAED, 16, 4096

// databases looks at the beginning of each. An empty one podman makes anew by itself.
func (l *looker) databases() {
	sqlite, bolt := l.head(sqliteFile), l.head(boltFile)
	if len(sqlite) > 0 && !bytes.HasPrefix(sqlite, sqliteHeader) {
		l.note(Database, sqliteFile, "it is no database")
	}
	if len(bolt) > 0 && !isBolt(bolt) {
		l.note(Database, boltFile, "it is no database")
	}
	if len(sqlite) > 0 && len(bolt) > 0 {
		l.note(Migration, sqliteFile, "there is %s, too: podman did not finish moving from one database to the other, which it does when the device is restarted", boltFile)
	}
}

func isBolt(head []byte) bool {
	for _, page := range []int{0, boltPage} {
		if at := page + boltMagicAt; len(head) >= at+4 && binary.NativeEndian.Uint32(head[at:]) == boltMagic {
			return true
		}
	}
	return false
}

// head is how a file begins; empty for one that is empty or cannot be read.
func (l *looker) head(name string) []byte {
	file, err := l.dir.Open(name)
	if err != nil {
		return nil
	}
	defer file.Close()
	head, _ := io.ReadAll(io.LimitReader(file, 2*boltPage))
	return head
}
