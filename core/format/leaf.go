package format

func (n *Node) low() int      { return int(le.Uint16(n[ndLow:])) }
func (n *Node) setLow(v int)  { le.PutUint16(n[ndLow:], uint16(v)) }
func (n *Node) dead() int     { return int(le.Uint16(n[ndDead:])) }
func (n *Node) setDead(v int) { le.PutUint16(n[ndDead:], uint16(v)) }

// span is where the i-th value lies.
func (n *Node) span(i int) (off, end int) {
	p := n[ndSlots+i*slotSize:][:slotSize:slotSize]
	off = int(le.Uint16(p[slValOff:]))
	return off, off + int(le.Uint16(p[slValLen:]))
}

// setSpan says where the i-th value lies. An empty one lies at the end, where it
// stays inside whatever low becomes.
func (n *Node) setSpan(i, off, length int) {
	if length == 0 {
		off = BlockSize
	}
	p := n[ndSlots+i*slotSize:][:slotSize:slotSize]
	le.PutUint16(p[slValOff:], uint16(off))
	le.PutUint16(p[slValLen:], uint16(length))
}

// Value is the value of the i-th record, inside the node.
func (n *Node) Value(i int) []byte {
	off, end := n.span(i)
	return n[off:end:end]
}

// Fits reports whether one more record with a value of length bytes fits.
func (n *Node) Fits(length int) bool { return n.Used()+slotSize+length <= NodeCap }

// FitsInstead reports whether a value of length bytes fits in the place of the
// i-th.
func (n *Node) FitsInstead(i, length int) bool {
	return n.Used()-len(n.Value(i))+length <= NodeCap
}

// RecordOverhead is what a record takes of NodeCap beside its value, in bytes.
const RecordOverhead = slotSize

// RecordSize is what the i-th record takes of NodeCap, in bytes.
func (n *Node) RecordSize(i int) int { return slotSize + len(n.Value(i)) }

// Insert makes (k, v) the i-th record. The record must fit (Fits).
func (n *Node) Insert(i int, k Key, v []byte) {
	count := n.Count()
	if n.low()-(ndSlots+(count+1)*slotSize) < len(v) {
		n.compact()
	}
	at := ndSlots + i*slotSize
	copy(n[at+slotSize:], n[at:ndSlots+count*slotSize])
	clear(n[at : at+slotSize])
	putKey(n[at:], k)
	n.setCount(count + 1)
	low := n.low() - len(v)
	copy(n[low:], v)
	n.setLow(low)
	n.setSpan(i, low, len(v))
}

// Replace changes the value of the i-th record. The value must fit
// (FitsInstead).
func (n *Node) Replace(i int, v []byte) {
	old := n.Value(i)
	if len(v) <= len(old) {
		off, _ := n.span(i)
		rest := len(old) - len(v)
		copy(n[off+rest:], v)
		if off == n.low() {
			n.setLow(off + rest)
		} else {
			n.setDead(n.dead() + rest)
		}
		n.setSpan(i, off+rest, len(v))
		return
	}
	k := n.Key(i)
	n.Remove(i, i+1)
	n.Insert(i, k, v)
}

// Remove removes the records [i, j).
func (n *Node) Remove(i, j int) {
	dead := n.dead()
	for x := i; x < j; x++ {
		dead += len(n.Value(x))
	}
	n.removeSlots(i, j)
	if n.Count() == 0 {
		n.setLow(BlockSize)
		dead = 0
	}
	n.setDead(dead)
}

// compact moves the values together so that no dead byte is left.
func (n *Node) compact() {
	old := *n
	low := BlockSize
	for i := range n.Count() {
		v := old.Value(i)
		low -= len(v)
		copy(n[low:], v)
		n.setSpan(i, low, len(v))
	}
	n.setLow(low)
	n.setDead(0)
}

// MoveRecords moves the records [from, Count) of n to the end of to, which
// must have room.
func (n *Node) MoveRecords(from int, to *Node) {
	count := n.Count()
	for i := from; i < count; i++ {
		to.Insert(to.Count(), n.Key(i), n.Value(i))
	}
	n.Remove(from, count)
}
