//! The coordinator: services, the task that owns the scheduler, the ledger.
