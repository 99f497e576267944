"""Published tables and figures, made again; each module says which, and `catalogue` runs them by name."""

EXPERIMENTS = (
    "adi-table-3",
    "cdanet-table-2",
    "cdanet-table-6",
    "cdanet-table-7",
    "cdanet-figure-2",
    "cdanet-figure-3",
    "cdanet-figure-4",
    "cdanet-more-domains",
)
