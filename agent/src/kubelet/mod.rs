//! The kubelet of this node: its pods, asked for in time for the first lines of a new container.

pub mod pods;
