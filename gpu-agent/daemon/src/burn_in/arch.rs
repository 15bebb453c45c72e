//! Tensor kernels for one compute capability each. Their PTX is taken by that one alone, and by
//! drivers that know it.

use gpu_agent_core::burn_in::tensor::Exact;

use super::cuda::{Failure, FailureKind};
use super::kernels;
use super::votes::Test;

/// One file.
pub(super) struct Family {
    /// Major and minor: no other may load it.
    compute: (u32, u32),
    pub ptx: &'static str,
    pub tests: &'static [Test],
    /// Its instructions take operands by descriptors that no GPU has confirmed: a kernel that is
    /// stopped, or does not end, may be wrong itself.
    pub is_untried: bool,
    pub power: Option<Power>,
}

/// The test that draws most power.
#[derive(Clone, Copy)]
pub(super) struct Power {
    pub name: &'static str,
    /// How long its chains are before they enter the digest: so long that little else counts.
    pub chain: u32,
    /// The same for a load that is switched: a step should take some tens of microseconds.
    pub brief: u32,
}

const FAMILIES: [Family; 3] = [
    Family {
        compute: (9, 0),
        ptx: kernels::WGMMA,
        tests: &[
            Test::new("tensor_wgmma_bf16", 8),
            Test::exact("tensor_wgmma_exact", Exact::Wgmma),
        ],
        is_untried: true,
        power: Some(Power { name: "tensor_wgmma_power", chain: 512, brief: 32 }),
    },
    Family {
        compute: (10, 0),
        ptx: kernels::TCGEN05,
        tests: &[
            Test::new("tensor_tcgen05_bf16", 8),
            Test::exact("tensor_tcgen05_exact", Exact::Tcgen05),
        ],
        is_untried: true,
        power: Some(Power { name: "tensor_tcgen05_bf16", chain: 2_048, brief: 256 }),
    },
    Family {
        compute: (12, 0),
        ptx: kernels::MMA_SM120A,
        tests: &[
            Test::new("tensor_f8f6f4", 2),
            Test::exact("tensor_f8f6f4_exact", Exact::Signs),
            Test::exact("tensor_nvfp4", Exact::Nvfp4),
        ],
        is_untried: false,
        power: None,
    },
];

/// That of a GPU, if it has one.
pub(super) fn family(compute: (u32, u32)) -> Option<&'static Family> {
    FAMILIES.iter().find(|it| it.compute == compute)
}

/// A kernel that was stopped on a GPU whose own instructions are untried says nothing of the GPU.
pub(super) fn doubted(compute: (u32, u32), failure: Failure) -> Failure {
    let is_untried = family(compute).is_some_and(|it| it.is_untried);
    if is_untried && failure.kind == FailureKind::Trap {
        return Failure::driver(failure.message);
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_for_the_architecture_that_its_text_names() {
        for it in &FAMILIES {
            let (major, minor) = it.compute;
            let target = format!(".target sm_{major}{minor}a");
            assert!(it.ptx.lines().any(|line| line == target), "{target}");
            let names = it.tests.iter().map(|test| test.name);
            for name in names.chain(it.power.map(|it| it.name)) {
                assert!(it.ptx.contains(&format!(".entry {name}(")), "{name}");
            }
        }
        let trap = |compute| doubted(compute, Failure::new(FailureKind::Trap, "x")).is_of_device();
        assert!(!trap((10, 0)) && trap((12, 0)) && trap((8, 0)));
        assert!(doubted((10, 0), Failure::new(FailureKind::Device, "x")).is_of_device());
        assert!(family((8, 0)).is_none() && family((10, 3)).is_none());
    }
}
