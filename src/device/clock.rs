//! Where device models take the time from.

/// A clock of the host that follows civil time.
pub trait WallClock: Send + Sync {
    /// Seconds since 1970-01-01 00:00:00 UTC, or since the host started where
    /// no better is known. Never goes back.
    fn seconds(&self) -> u64;
}
