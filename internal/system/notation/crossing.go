package notation

// Patterns are those of some routes in their order. The zero value holds none.
type Patterns struct {
	all   []*Pattern
	hosts map[string]*crossing
}

// Add appends a pattern, which must not change afterwards. It returns the index of the
// first of those before that is not apart from it, and how the two stand to each other;
// without one, the index is its own and the relation is [Apart].
func (ps *Patterns) Add(q *Pattern) (first int, how Relation) {
	paths := ps.hosts[q.Host]
	if paths == nil {
		if ps.hosts == nil {
			ps.hosts = map[string]*crossing{}
		}
		paths = &crossing{}
		ps.hosts[q.Host] = paths
	}
	first = len(ps.all)
	paths.meeting(q.segments, func(before int) {
		if before < first {
			if relation := relate(*ps.all[before], *q); relation != Apart {
				first, how = before, relation
			}
		}
	})
	paths.add(q.segments, len(ps.all))
	ps.all = append(ps.all, q)
	return first, how
}

// crossing is a tree of paths, segment by segment. It finds those that some request
// may match together with another path, without comparing each with each: routes
// may be thousands.
type crossing struct {
	literals map[string]*crossing
	wild     *crossing
	ends     []int // routes whose paths end here
	rests    []int // routes whose last segment, here, stands for all that follows
}

// add puts the path of a route into the tree.
func (c *crossing) add(path []segment, route int) {
	for _, s := range path {
		switch {
		case s.multi:
			c.rests = append(c.rests, route)
			return
		case s.wild:
			if c.wild == nil {
				c.wild = &crossing{}
			}
			c = c.wild
		default:
			next := c.literals[s.literal]
			if next == nil {
				if c.literals == nil {
					c.literals = map[string]*crossing{}
				}
				next = &crossing{}
				c.literals[s.literal] = next
			}
			c = next
		}
	}
	c.ends = append(c.ends, route)
}

// meeting calls visit with all routes whose paths meet a path, in no order. It is
// [pathsMeet] for all of them at once.
func (c *crossing) meeting(path []segment, visit func(route int)) {
	if c == nil {
		return
	}
	if len(path) == 0 {
		each(c.ends, visit)
		return
	}
	each(c.rests, visit)
	switch s := path[0]; {
	case s.multi:
		c.wild.all(visit)
		for _, next := range c.literals {
			next.all(visit)
		}
	case s.wild:
		c.wild.meeting(path[1:], visit)
		for literal, next := range c.literals {
			if literal != "" {
				next.meeting(path[1:], visit)
			}
		}
	default:
		c.literals[s.literal].meeting(path[1:], visit)
		if s.literal != "" {
			c.wild.meeting(path[1:], visit)
		}
	}
}

// all calls visit with the routes at and below c.
func (c *crossing) all(visit func(route int)) {
	if c == nil {
		return
	}
	each(c.ends, visit)
	each(c.rests, visit)
	c.wild.all(visit)
	for _, next := range c.literals {
		next.all(visit)
	}
}

func each(routes []int, visit func(route int)) {
	for _, route := range routes {
		visit(route)
	}
}
