//! On the CPU.

use burn::backend::Flex;

use super::TogetherOps;

impl TogetherOps for Flex {}
