"""Who may do what: tokens, where a request comes from, rate limits."""
