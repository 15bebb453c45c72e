//! Kinds of GPUs and what a node says of its own.

use alloc::string::String;

pub use crate::id::GpuClass;
use crate::id::GpuIndex;

/// A kind of GPU that Spillway knows by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownClass {
    /// The class, as job files name it.
    pub class: &'static str,
    /// What NVML's product name contains, in lower case.
    pub product: &'static str,
    /// Memory in GiB, from the maker's data sheet.
    pub memory_gib: u32,
}

/// The classes that are recognised by product name; the first match wins, so longer names come
/// first. Any other class may be used by name all the same.
pub const KNOWN: &[KnownClass] = &[
    KnownClass { class: "gb300", product: "gb300", memory_gib: 288 },
    KnownClass { class: "gb200", product: "gb200", memory_gib: 186 },
    KnownClass { class: "b300", product: "b300", memory_gib: 288 },
    KnownClass { class: "b200", product: "b200", memory_gib: 180 },
    KnownClass { class: "rtx-pro-6000", product: "rtx pro 6000", memory_gib: 96 },
    KnownClass { class: "gh200", product: "gh200", memory_gib: 96 },
    KnownClass { class: "h200", product: "h200", memory_gib: 141 },
    KnownClass { class: "h100", product: "h100", memory_gib: 80 },
    KnownClass { class: "l40s", product: "l40s", memory_gib: 48 },
    KnownClass { class: "l4", product: "nvidia l4", memory_gib: 24 },
    KnownClass { class: "a100", product: "a100", memory_gib: 80 },
];

/// The class of a product name as NVML gives it; `gpu` if it is none that is known.
#[must_use]
pub fn class_of_product(product: &str) -> &'static str {
    let product = product.to_ascii_lowercase();
    KNOWN.iter().find(|known| product.contains(known.product)).map_or("gpu", |known| known.class)
}

crate::enumeration! {
    /// Where a node's knowledge of its GPUs comes from.
    pub enum InventorySource {
        /// The driver, through NVML.
        1 => Nvml = "nvml",
        /// A configuration that nothing has proven.
        2 => Declared = "declared",
    }
}

crate::message! {
    /// One GPU of a node.
    pub struct GpuInfo {
        1 => index: GpuIndex,
        2 => class: GpuClass,
        /// The driver's id of the device; empty for a declared GPU.
        3 => uuid: String,
        /// Mebibytes; 0 if unknown.
        4 => memory_mib: u64,
    }
}
