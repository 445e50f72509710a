package tree

// Depth is how many levels the tree has now, 1 for a lone leaf. Unlike Info it
// waits for no commit.
func (s *Store) Depth() int {
	s.treeMu.RLock()
	defer s.treeMu.RUnlock()
	return int(s.root.Level) + 1
}
