package migrations

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

// released are the migrations that ledgers in use were made with. A change here
// would leave them different from new ones: add a file instead.
var released = map[string]string{
	"00001_freezes.sql":  "24f8f2bad6708df4749bd6945e369048f9957142025d26354b0ea463804771e8",
	"00002_activity.sql": "ec1eeaea6f0c6d921d97c5978e57bbd4fc481626dbf9f02301bce23b9043b598",
	"00003_intent.sql":   "9ea29169e3e6a55dde8caaa289a3c3bfde9f44613b05b735bd415c728f79b9fb",
}

func TestReleasedMigrationsStayAsTheyAre(t *testing.T) {
	entries, err := FS.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := FS.ReadFile(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		got := hex.EncodeToString(sum[:])
		switch want, ok := released[e.Name()]; {
		case !ok:
			t.Errorf("%s is new: list it here as %s when it is released", e.Name(), got)
		case got != want:
			t.Errorf("%s was changed after its release (now %s): put it back and add a new migration", e.Name(), got)
		}
		delete(released, e.Name())
	}
	for name := range released {
		t.Errorf("%s is gone", name)
	}
}
