package broker

// idsMax is how many packet identifiers there are.
const idsMax = 65535

// idSet is a set of packet identifiers that hands out new ones, rising, so that
// those in use are mostly neighbours.
type idSet struct {
	pages []idPage // of those that have any, in no order
	next  uint16
}

type idPage struct {
	no   uint16 // identifiers no*512 to no*512+511
	n    uint16
	used [8]uint64
}

// take returns an identifier that is not in the set, and adds it. There must
// be one.
func (s *idSet) take() uint16 {
	for {
		s.next++
		if s.next == 0 {
			continue
		}
		if !s.has(s.next) {
			s.add(s.next)
			return s.next
		}
		if p := s.page(s.next); p.n == 512 { // skip what is full
			s.next |= 511
		}
	}
}

func (s *idSet) page(id uint16) *idPage {
	for i := range s.pages {
		if s.pages[i].no == id>>9 {
			return &s.pages[i]
		}
	}
	return nil
}

func (s *idSet) has(id uint16) bool {
	p := s.page(id)
	return p != nil && p.used[id>>6&7]&(1<<(id&63)) != 0
}

// add adds an identifier.
func (s *idSet) add(id uint16) {
	p := s.page(id)
	if p == nil {
		s.pages = append(s.pages, idPage{no: id >> 9})
		p = &s.pages[len(s.pages)-1]
	}
	word := &p.used[id>>6&7]
	if *word&(1<<(id&63)) == 0 {
		*word |= 1 << (id & 63)
		p.n++
	}
}

// drop removes an identifier.
func (s *idSet) drop(id uint16) {
	p := s.page(id)
	if p == nil || p.used[id>>6&7]&(1<<(id&63)) == 0 {
		return
	}
	p.used[id>>6&7] &^= 1 << (id & 63)
	if p.n--; p.n == 0 {
		last := len(s.pages) - 1
		*p = s.pages[last]
		if s.pages = s.pages[:last]; last == 0 {
			s.pages = nil
		}
	}
}
