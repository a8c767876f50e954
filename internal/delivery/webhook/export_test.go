package webhook

// AwaitDrains waits for answers that are still being read.
func (c *Client) AwaitDrains() { c.draining.Wait() }
