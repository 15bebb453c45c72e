//! Planting faults.
