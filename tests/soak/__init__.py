"""The soak: one real proxy for minutes under seeded faults, and a verdict (acceptance A47)."""
