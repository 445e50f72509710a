package store

import (
	"errors"
	"strings"
	"testing"
)

func wantError(t *testing.T, err, is error, says string) {
	t.Helper()
	if !errors.Is(err, is) || !strings.Contains(err.Error(), says) {
		t.Errorf("error is %v; want %q that says %q", err, is, says)
	}
}
