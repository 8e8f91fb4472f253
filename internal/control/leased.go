package control

// Leased returns the IDs of the versions that fall asleep or are removed where nobody reports activity of theirs.
func (c *Control) Leased() map[string]bool {
	leased := map[string]bool{}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, rec := range c.records {
		if t := c.termsLocked(rec, c.keepers[key]); t.idle > 0 || t.ttl > 0 {
			leased[key.String()] = true
		}
	}
	return leased
}
