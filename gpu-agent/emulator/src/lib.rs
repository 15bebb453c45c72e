//! A GPU in software.
