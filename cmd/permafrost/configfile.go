package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// configFile is one JSON file of flag values, as a kong.Resolver. Immutable.
//
// Its keys are names of flags: commit-interval, commit_interval and
// commitInterval are the same. An object under the name of a verb holds values
// for that verb only and outweighs the others:
//
//	{"lease_max": "2h", "freezes": {"limit": 20}}
//
// A key that means no flag is an error: what is mistyped must not be what the
// operator believes to be in force. Flags without a variable are for the command
// line only; flags with a variable of their own stand under their verb only.
type configFile struct {
	name  string
	flat  map[string]any            // by the flag's name
	verbs map[string]map[string]any // by verb (of two: "bench core"), then by the flag's name
}

// configLoader reads a file; kong calls it for each.
func configLoader(r io.Reader) (kong.Resolver, error) {
	f := &configFile{name: "the configuration", flat: map[string]any{}, verbs: map[string]map[string]any{}}
	if named, ok := r.(interface{ Name() string }); ok {
		f.name = named.Name()
	}
	in := json.NewDecoder(r)
	in.UseNumber()
	var all map[string]any
	if err := in.Decode(&all); err != nil {
		return nil, fmt.Errorf("%s is not a JSON object of flag values: %w", f.name, jsonError(err))
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: something stands after the JSON object", f.name)
	}
	return f, f.put("", all)
}

// jsonError adds where in the file a JSON error is.
func jsonError(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("%w (at byte %d)", err, syntax.Offset)
	case errors.As(err, &kind):
		return fmt.Errorf("it holds a %s (at byte %d)", kind.Value, kind.Offset)
	case errors.Is(err, io.EOF):
		return errors.New("it is empty")
	}
	return err
}

// put files the values of an object: the whole file's, or a verb's.
func (f *configFile) put(verb string, values map[string]any) error {
	for key, value := range values {
		name := flagName(key)
		if inner, ok := value.(map[string]any); ok {
			if err := f.put(strings.TrimSpace(verb+" "+name), inner); err != nil {
				return err
			}
			continue
		}
		into := f.flat
		if verb != "" {
			if f.verbs[verb] == nil {
				f.verbs[verb] = map[string]any{}
			}
			into = f.verbs[verb]
		}
		if _, twice := into[name]; twice {
			return fmt.Errorf("%s: %s stands there twice, in two ways of writing it", f.name, name)
		}
		if n, ok := value.(json.Number); ok {
			value = n.String() // kong's decoders take text for any kind
		}
		into[name] = value
	}
	return nil
}

// flagName is the flag that a key means.
func flagName(key string) string {
	var b strings.Builder
	for _, r := range key {
		switch {
		case r == '_':
			b.WriteByte('-')
		case r >= 'A' && r <= 'Z':
			b.WriteByte('-')
			b.WriteRune(r - 'A' + 'a')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// Resolve gives a flag its value. A flag outweighs the environment and that a
// file; kong would let the file outweigh it, so a flag whose variable is set
// is left alone.
func (f *configFile) Resolve(ctx *kong.Context, parent *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil
		}
	}
	if node := parent.Node(); node != nil && len(flag.Envs) > 0 {
		if v, ok := f.verbs[verbName(node)][flag.Name]; ok {
			return v, nil
		}
	}
	if v, ok := f.flat[flag.Name]; ok && sharesVariable(flag) {
		return v, nil
	}
	return nil, nil
}

// verbName is the verb as it is typed: "serve", "bench core".
func verbName(n *kong.Node) string {
	if n.Type != kong.CommandNode {
		return ""
	}
	if n.Parent == nil {
		return n.Name
	}
	return strings.TrimSpace(verbName(n.Parent) + " " + n.Name)
}

// sharesVariable says whether the flag has the variable that goes with its
// name, and so the meaning that other flags of that name have.
func sharesVariable(flag *kong.Flag) bool {
	return slices.Contains(flag.Envs, "PERMAFROST_"+strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_")))
}

// Validate refuses keys that mean no flag.
func (f *configFile) Validate(app *kong.Application) error {
	flat, verbs := map[string]bool{}, map[string]map[string]bool{}
	collectFlags(app.Node, flat, verbs)
	for verb, values := range f.verbs {
		known, ok := verbs[verb]
		if !ok {
			return fmt.Errorf("%s: %q is not a verb%s", f.name, verb, nearest(verb, verbs))
		}
		for name := range values {
			if !known[name] {
				return fmt.Errorf("%s: %q has no flag %q that a file can set%s", f.name, verb, name, nearest(name, known))
			}
		}
	}
	for name := range f.flat {
		if !flat[name] {
			return fmt.Errorf("%s: there is no flag %q that a file can set for all verbs%s", f.name, name, nearest(name, flat))
		}
	}
	return nil
}

// collectFlags gathers what a file can set: flat for all verbs, and by verb.
func collectFlags(n *kong.Node, flat map[string]bool, verbs map[string]map[string]bool) {
	verb := verbName(n)
	if verb != "" && verbs[verb] == nil {
		verbs[verb] = map[string]bool{}
	}
	for _, flag := range n.Flags {
		if len(flag.Envs) == 0 || flag.Name == "help" || flag.Name == "config" || n.Hidden {
			continue
		}
		if verb != "" {
			verbs[verb][flag.Name] = true
		}
		if sharesVariable(flag) {
			flat[flag.Name] = true
		}
	}
	for _, child := range n.Children {
		collectFlags(child, flat, verbs)
	}
}

// nearest hints at the known name most like a wrong one, if one is like it.
func nearest[V any](wrong string, known map[string]V) string {
	best, at := "", 3 // more than two wrong letters are another word
	for name := range known {
		if d := editDistance(wrong, name); d < at || d == at && name < best {
			best, at = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(": did you mean %q?", best)
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
