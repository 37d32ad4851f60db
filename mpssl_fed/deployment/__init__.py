"""A federation of real processes: a site's daemon and SuperNode, the SuperLink, and their rehearsal on one machine."""
