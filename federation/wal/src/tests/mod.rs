//! What no single file shows: damage to the bytes, and power losses of a whole disk.

mod damage;
mod oracle;
mod power_loss;
