package exercise

import (
	"fmt"
	"strconv"
	"strings"
)

// Set is a set of operation numbers, in ascending order; nil is all of them.
type Set []int

// Has says whether n is in the set.
func (s Set) Has(n int) bool {
	if s == nil {
		return true
	}
	lo, hi := 0, len(s)
	for lo < hi {
		if mid := (lo + hi) / 2; s[mid] < n {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo < len(s) && s[lo] == n
}

// String writes the set as 3,5-9.
func (s Set) String() string {
	var parts []string
	for i := 0; i < len(s); {
		j := i
		for j+1 < len(s) && s[j+1] == s[j]+1 {
			j++
		}
		if j == i {
			parts = append(parts, strconv.Itoa(s[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", s[i], s[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}

// ParseSet reads what String writes; an empty text is all operations.
func ParseSet(text string) (Set, error) {
	var s Set
	if text == "" {
		return nil, nil
	}
	for _, part := range strings.Split(text, ",") {
		from, to, ranged := strings.Cut(part, "-")
		a, err := strconv.Atoi(from)
		b := a
		if err == nil && ranged {
			b, err = strconv.Atoi(to)
		}
		if err != nil || b < a || len(s) > 0 && a <= s[len(s)-1] {
			return nil, fmt.Errorf("%q is not a set of operations such as 3,5-9", text)
		}
		for ; a <= b; a++ {
			s = append(s, a)
		}
	}
	return s, nil
}
