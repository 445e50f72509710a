package store

// close refuses further records and returns the intents that nobody will try.
func (q *queue) close() []*intent {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	left := q.intents
	q.intents = nil
	return left
}

// abandon drops what is left after close, counts it as lost and answers every
// flush. It returns the number of rows lost.
func (q *queue) abandon() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	var lost uint64
	drop := func(o *op) {
		lost += uint64(o.rows)
		q.lanes[o.kind].lost += uint64(o.rows)
		q.forgetLocked(o)
	}
	for _, o := range q.batch {
		drop(o)
	}
	q.batch = nil
	for k := range q.lanes {
		ln := &q.lanes[k]
		for _, o := range ln.ops {
			drop(o)
		}
		ln.ops, ln.rows, ln.bytes = nil, 0, 0
	}
	for _, f := range q.flushes {
		close(f.done)
	}
	q.flushes = nil
	return lost
}

// unwritten are the freezes that are not in the database yet, in their newest
// form. The values are shared: they are not to be changed.
func (q *queue) unwritten() map[int64]Freeze {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.latest) == 0 {
		return nil
	}
	m := make(map[int64]Freeze, len(q.latest))
	for id, o := range q.latest {
		m[id] = o.rec.(*freezeRec).f
	}
	return m
}

// fill adds the queue's figures to s.
func (q *queue) fill(s *Stats) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s.Dropped = make(map[string]uint64, kinds)
	for _, o := range q.batch {
		s.Waiting += int64(o.rows)
		s.WaitingBytes += int64(o.bytes)
	}
	for k := range q.lanes {
		ln := &q.lanes[k]
		s.Waiting += int64(ln.rows)
		s.WaitingBytes += int64(ln.bytes)
		s.Dropped[kind(k).String()] = ln.lost
	}
}

// pushIntent puts an intent before every batch. False: the ledger is closed.
func (q *queue) pushIntent(in *intent) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.intents = append(q.intents, in)
	return true
}

// nextIntent takes the oldest intent that waits, or nil.
func (q *queue) nextIntent() *intent {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.intents) == 0 {
		return nil
	}
	in := q.intents[0]
	q.intents = q.intents[1:]
	return in
}

// abandonIntent moves an intent whose caller gave up to the ordinary records.
// It does nothing to one that is being tried.
func (q *queue) abandonIntent(in *intent) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, other := range q.intents {
		if other == in {
			q.intents = append(q.intents[:i], q.intents[i+1:]...)
			q.putFailedIntentLocked(in.f)
			return
		}
	}
}

// keepIntent makes an ordinary record of an intent that could not be written.
func (q *queue) keepIntent(in *intent) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.putFailedIntentLocked(in.f)
}
