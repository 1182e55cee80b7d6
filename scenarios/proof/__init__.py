"""Plant known faults in trained networks, and measure how often the audit finds them."""
