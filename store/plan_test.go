package store

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// statements are all that the package sends to SQLite: the constants of the
// generated code and those written by hand.
func statements(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{"stepSamples": stepSamples, "eventFrom": eventFrom, "imageReads": imageReads}
	files := must(filepath.Glob("internal/ledgerdb/*.sql.go"))(t)
	for _, name := range files {
		file := must(parser.ParseFile(token.NewFileSet(), name, nil, 0))(t)
		ast.Inspect(file, func(n ast.Node) bool {
			v, ok := n.(*ast.ValueSpec)
			if !ok || len(v.Values) != 1 {
				return true
			}
			if lit, ok := v.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				out[v.Names[0].Name] = must(strconv.Unquote(lit.Value))(t)
			}
			return true
		})
	}
	if len(out) < 50 {
		t.Fatalf("found only %d statements", len(out))
	}
	return out
}

// scansAllowed are read from one end of the primary key up to a LIMIT, or once
// at open.
var scansAllowed = map[string]string{
	"countRows":     "at open only",
	"oldestFreezes": "LIMIT", "oldestRenewals": "LIMIT", "oldestBlocked": "LIMIT", "oldestFound": "LIMIT",
	"oldestSyncs": "LIMIT", "oldestMinutes": "LIMIT", "oldestSamples": "LIMIT", "oldestEvents": "LIMIT",
	"lastEventAt": "LIMIT", "lastSampleAt": "LIMIT", "lastHolds": "LIMIT",
}

var (
	scan    = regexp.MustCompile(`^SCAN (freezes|holds|phases|renewals|blocked|found_inodes|syncs|fsync_minutes|samples|events|newest|s|h|f|r|b)\b`)
	sorting = regexp.MustCompile(`USE TEMP B-TREE FOR ORDER BY`)
)

// TestNoQueryScansATable asks SQLite for the plan of every statement.
func TestNoQueryScansATable(t *testing.T) {
	l := newTestLedger(t)
	db := l.conn.r
	for name, text := range statements(t) {
		text = strings.ReplaceAll(text, "/*SLICE:ids*/?", "?,?")
		var args []any
		for range strings.Count(text, "?") {
			args = append(args, 1)
		}
		if numbered := regexp.MustCompile(`\?(\d+)`).FindAllStringSubmatch(text, -1); len(numbered) > 0 {
			most := 0
			for _, m := range numbered {
				most = max(most, must(strconv.Atoi(m[1]))(t))
			}
			args = args[:most]
		}
		rows, err := db.Query("EXPLAIN QUERY PLAN "+text, args...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, detail)
		}
		rows.Close()
		for _, step := range plan {
			if why, ok := scansAllowed[name]; ok && (why != "LIMIT" || strings.Contains(text, "LIMIT")) {
				continue
			}
			if scan.MatchString(step) {
				t.Errorf("%s scans a table: %s", name, strings.Join(plan, "; "))
			}
		}
		for _, step := range plan {
			if _, ok := sortsAllowed[name]; sorting.MatchString(step) && !ok {
				t.Errorf("%s sorts: %s", name, strings.Join(plan, "; "))
			}
		}
	}
}

// sortsAllowed have a bounded set to sort.
var sortsAllowed = map[string]string{
	"holdsOf":     "the holds of one page of freezes",
	"openFreezes": "one or two freezes",
	"stepSamples": "at most MaxSamples steps",
}
