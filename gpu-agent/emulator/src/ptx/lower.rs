//! From statements to a program: registers get numbers, immediates become registers that are set
//! before the kernel begins, labels become positions.

use std::collections::BTreeMap;

use super::PtxError;
use super::op::{
    AtomKind, Bin32, Bin64, Class, Compare, Float, Fragments, Half, Instruction, Logic, MmaKind,
    Op, Reg, Space, Un32, Un64, Way, Width,
};
use super::text::{Entry, Operand, Statement, bytes_of};

/// What a thread can read of its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Special {
    Thread,
    Threads,
    Block,
    Blocks,
    Lane,
    Warp,
    Sm,
    Zero,
    One,
}

/// A kernel that can run.
pub(crate) struct Kernel {
    pub name: String,
    /// Where each argument begins, and how wide it is, in bytes.
    pub parameters: Vec<(usize, usize)>,
    /// Bytes of all arguments.
    pub parameter_bytes: usize,
    /// How many registers of 32 and 64 bits and predicates.
    pub registers: (usize, usize, usize),
    pub constants_32: Vec<(Reg, u32)>,
    pub constants_64: Vec<(Reg, u64)>,
    pub specials: Vec<(Reg, Special)>,
    /// Bytes of shared memory beside what the launch gives.
    pub shared: usize,
    /// Constant memory, by words.
    pub constants: Vec<u32>,
    pub code: Vec<Instruction>,
}

/// The only scaled operation that is known: e2m1 by e2m1, one scale for 16 numbers.
const SCALED: &[&str] =
    &["kind::mxf4nvf4", "block_scale", "scale_vec::4X", "f32", "e2m1", "e2m1", "f32", "ue4m3"];

/// Turns an entry into a program.
///
/// # Errors
/// An instruction that is not known, by name, or one whose operands make no sense.
pub(crate) fn lower(entry: &Entry) -> Result<Kernel, PtxError> {
    if let Some(line) = useless_load(entry) {
        let what = "an assembler leaves this read out: nobody uses what it gives";
        return Err(PtxError::new(line, what));
    }
    let mut lowering = Lowering::new(entry);
    let mut code = Vec::with_capacity(entry.statements.len() + 1);
    for statement in &entry.statements {
        lowering.line = statement.line;
        code.push(lowering.instruction(statement)?);
    }
    code.push(Instruction { guard: None, class: Class::Other, cost: 1, op: Op::Exit });
    let mut parameters: Vec<(usize, usize)> = lowering.parameters.values().copied().collect();
    parameters.sort_unstable();
    Ok(Kernel {
        name: entry.name.clone(),
        parameters,
        parameter_bytes: lowering.parameter_bytes,
        registers: (
            usize::from(lowering.next_32),
            usize::from(lowering.next_64),
            usize::from(lowering.next_predicate),
        ),
        constants_32: lowering.constants_32.into_iter().map(|(value, reg)| (reg, value)).collect(),
        constants_64: lowering.constants_64.into_iter().map(|(value, reg)| (reg, value)).collect(),
        specials: lowering.specials.into_iter().map(|(special, reg)| (reg, special)).collect(),
        shared: lowering.shared_bytes,
        constants: lowering.constants,
        code,
    })
}

/// The line of a read that need not be done: it is not volatile, and no other statement names a
/// register that it fills.
fn useless_load(entry: &Entry) -> Option<usize> {
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    for statement in &entry.statements {
        let guard = statement.guard.iter().map(|(name, _)| name.as_str());
        for name in guard.chain(statement.operands.iter().flat_map(names)) {
            *uses.entry(name).or_default() += 1;
        }
    }
    let is_useless = |it: &&Statement| {
        let is_load = it.opcode.starts_with("ld.") && !it.opcode.contains(".volatile");
        let filled = it.operands.first().map(names).unwrap_or_default();
        is_load && filled.iter().all(|name| uses.get(name) == Some(&1))
    };
    entry.statements.iter().find(is_useless).map(|it| it.line)
}

fn names(operand: &Operand) -> Vec<&str> {
    match operand {
        Operand::Name(name) | Operand::Address(name, _) => vec![name.as_str()],
        Operand::Vector(all) => all.iter().flat_map(names).collect(),
        Operand::Immediate(_) => Vec::new(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    Word,
    Long,
    Predicate,
}

struct Lowering {
    line: usize,
    prefixes: Vec<(String, File)>,
    named: BTreeMap<String, Reg>,
    next_32: Reg,
    next_64: Reg,
    next_predicate: Reg,
    constants_32: BTreeMap<u32, Reg>,
    constants_64: BTreeMap<u64, Reg>,
    specials: BTreeMap<Special, Reg>,
    parameters: BTreeMap<String, (usize, usize)>,
    parameter_bytes: usize,
    shared: BTreeMap<String, usize>,
    shared_bytes: usize,
    /// Where each begins, and all of them.
    constant: BTreeMap<String, usize>,
    constants: Vec<u32>,
    labels: BTreeMap<String, u32>,
}

impl Lowering {
    fn new(entry: &Entry) -> Self {
        let mut parameters = BTreeMap::new();
        let mut at = 0_usize;
        for (name, bytes) in &entry.parameters {
            at = at.next_multiple_of(*bytes);
            parameters.insert(name.clone(), (at, *bytes));
            at += bytes;
        }
        let mut shared = BTreeMap::new();
        let mut top = 0_usize;
        // What the launch sizes comes last.
        let sized = entry.shared.iter().filter(|it| it.2 > 0);
        for (name, align, bytes) in sized.chain(entry.shared.iter().filter(|it| it.2 == 0)) {
            top = top.next_multiple_of(*align);
            shared.insert(name.clone(), top);
            top += bytes;
        }
        let (mut constant, mut constants) = (BTreeMap::new(), Vec::new());
        for (name, bytes) in &entry.constants {
            constant.insert(name.clone(), constants.len() * 4);
            let words = bytes.chunks(4).map(|word| {
                u32::from_le_bytes(std::array::from_fn(|nth| word.get(nth).copied().unwrap_or(0)))
            });
            constants.extend(words);
        }
        let file = |kind: &str| match kind {
            "pred" => File::Predicate,
            kind if kind.ends_with("64") => File::Long,
            _ => File::Word,
        };
        let labels = entry.labels.iter().map(|(name, at)| {
            (name.clone(), u32::try_from(*at).expect("a text has fewer lines than that"))
        });
        Self {
            line: 0,
            prefixes: entry
                .registers
                .iter()
                .map(|it| (it.prefix.clone(), file(&it.kind)))
                .collect(),
            named: BTreeMap::new(),
            next_32: 0,
            next_64: 0,
            next_predicate: 0,
            constants_32: BTreeMap::new(),
            constants_64: BTreeMap::new(),
            specials: BTreeMap::new(),
            parameters,
            parameter_bytes: at,
            shared,
            shared_bytes: top,
            constant,
            constants,
            labels: labels.collect(),
        }
    }

    fn bad(&self, what: impl Into<String>) -> PtxError {
        PtxError::new(self.line, what)
    }

    fn instruction(&mut self, it: &Statement) -> Result<Instruction, PtxError> {
        let guard = match &it.guard {
            Some((name, negated)) => {
                let reg = self.reg(&Operand::Name(name.clone()), File::Predicate)?;
                Some((reg, if *negated { u32::MAX } else { 0 }))
            }
            None => None,
        };
        let mut words = it.opcode.split('.');
        let base = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        let op = self.op(base, &rest, &it.operands, &it.opcode)?;
        let class = class_of(base, &rest, &op);
        let cost = match (&op, class) {
            (Op::Mma(..), _) => 16,
            (Op::Load(..) | Op::Store(..) | Op::Load64(..) | Op::Store64(..), _) => 4,
            (Op::Atom(..), _) | (_, Class::Special) => 8,
            _ => 1,
        };
        Ok(Instruction { guard, class, cost, op })
    }

    fn op(
        &mut self,
        base: &str,
        rest: &[&str],
        with: &[Operand],
        name: &str,
    ) -> Result<Op, PtxError> {
        let unknown = self.bad(format!("the instruction `{name}` is not known here"));
        let kind = rest.last().copied().unwrap_or_default();
        let found = match base {
            "ret" | "exit" => Some(Op::Exit),
            "bra" => Some(Op::Branch(self.label(with.first())?)),
            "bar" | "barrier" => (rest.first() == Some(&"sync")).then_some(Op::Barrier),
            "ld" => Some(self.load(rest, with)?),
            "st" => Some(self.store(rest, with)?),
            "atom" | "red" => Some(self.atom(rest, with, name)?),
            "mma" => Some(self.mma(rest, with, name)?),
            "shfl" => self.shuffle(rest, with)?,
            "vote" if rest == ["sync", "ballot", "b32"] => Some(self.ballot(with)?),
            "setp" => self.setp(rest, with)?,
            "cvt" => self.cvt(rest, with)?,
            "mov" | "cvta" => self.mov(kind, with)?,
            "selp" => self.select(kind, with)?,
            _ if kind == "pred" => self.predicate(base, with)?,
            _ => self.arithmetic(base, rest, with)?,
        };
        found.ok_or(unknown)
    }

    /// What has registers alone.
    fn arithmetic(
        &mut self,
        base: &str,
        rest: &[&str],
        with: &[Operand],
    ) -> Result<Option<Op>, PtxError> {
        let kind = rest.last().copied().unwrap_or_default();
        let mode = rest.first().copied().unwrap_or_default();
        if let Some(op) = bin_32(base, mode, kind) {
            let [d, a, b] = self.words(with)?;
            return Ok(Some(Op::Bin32(op, d, a, b)));
        }
        if let Some(op) = bin_64(base, mode, kind) {
            let [d, a] = self.longs(with)?;
            // A shift's distance has 32 bits.
            let is_shift = matches!(op, Bin64::Shl | Bin64::Shr | Bin64::ShrSigned);
            let file = if is_shift { File::Word } else { File::Long };
            let b = self.reg(self.nth(with, 2)?, file)?;
            return Ok(Some(Op::Bin64(op, d, a, b)));
        }
        if let Some(op) = un_32(base, mode, kind) {
            let [d, a] = self.words(with)?;
            return Ok(Some(Op::Un32(op, d, a)));
        }
        if let Some(op) = float(base, mode) {
            return Ok(match kind {
                "f32" => {
                    let [d, a, b] = self.words(with)?;
                    Some(Op::Float32(op, d, a, b))
                }
                "f64" => {
                    let [d, a, b] = self.longs(with)?;
                    Some(Op::Float64(op, d, a, b))
                }
                _ => None,
            });
        }
        self.rare(base, rest, with)
    }

    fn rare(
        &mut self,
        base: &str,
        rest: &[&str],
        with: &[Operand],
    ) -> Result<Option<Op>, PtxError> {
        let op = match (base, rest) {
            ("mad", ["lo", "s32" | "u32"]) => {
                let [d, a, b, c] = self.words(with)?;
                Op::Mad32(d, a, b, c)
            }
            ("mad", ["lo", "s64" | "u64"]) => {
                let [d, a, b, c] = self.longs(with)?;
                Op::Mad64(d, a, b, c)
            }
            ("mul" | "mad", ["wide", kind @ ("u32" | "s32")]) => {
                let d = self.long(with, 0)?;
                let (a, b) = (self.word(with, 1)?, self.word(with, 2)?);
                let signed = *kind == "s32";
                if base == "mul" {
                    Op::Wide(signed, d, a, b)
                } else {
                    Op::MadWide(signed, d, a, b, self.long(with, 3)?)
                }
            }
            ("fma", ["rn", "f32"]) => {
                let [d, a, b, c] = self.words(with)?;
                Op::Fma32(d, a, b, c)
            }
            ("fma", ["rn", "f64"]) => {
                let [d, a, b, c] = self.longs(with)?;
                Op::Fma64(d, a, b, c)
            }
            ("sqrt", ["rn", "f64"]) => Op::Sqrt64(self.long(with, 0)?, self.long(with, 1)?),
            ("not", ["b64"]) => Op::Un64(Un64::Not, self.long(with, 0)?, self.long(with, 1)?),
            ("neg", ["s64"]) => Op::Un64(Un64::Neg, self.long(with, 0)?, self.long(with, 1)?),
            ("neg", ["f64"]) => Op::Un64(Un64::NegFloat, self.long(with, 0)?, self.long(with, 1)?),
            ("shf", ["l", "wrap", "b32"]) => {
                let [d, low, high, by] = self.words(with)?;
                Op::Funnel(d, low, high, by)
            }
            ("prmt", ["b32"]) => {
                let [d, a, b, by] = self.words(with)?;
                Op::Permute(d, a, b, by)
            }
            ("dp4a", ["s32", "s32"]) => {
                let [d, a, b, c] = self.words(with)?;
                Op::Dot(d, a, b, c)
            }
            ("bfi", ["b32"]) => {
                let [d, a, b, at, count] = self.words(with)?;
                Op::Insert32(d, a, b, at, count)
            }
            ("bfi", ["b64"]) => {
                let [d, a, b] = self.longs(with)?;
                Op::Insert64(d, a, b, self.word(with, 3)?, self.word(with, 4)?)
            }
            _ => return Ok(None),
        };
        Ok(Some(op))
    }

    fn predicate(&mut self, base: &str, with: &[Operand]) -> Result<Option<Op>, PtxError> {
        let logic = match base {
            "and" => Logic::And,
            "or" => Logic::Or,
            "xor" => Logic::Xor,
            "not" => {
                let d = self.reg(self.nth(with, 0)?, File::Predicate)?;
                return Ok(Some(Op::PredicateNot(
                    d,
                    self.reg(self.nth(with, 1)?, File::Predicate)?,
                )));
            }
            _ => return Ok(None),
        };
        let d = self.reg(self.nth(with, 0)?, File::Predicate)?;
        let a = self.reg(self.nth(with, 1)?, File::Predicate)?;
        let b = self.reg(self.nth(with, 2)?, File::Predicate)?;
        Ok(Some(Op::Predicate(logic, d, a, b)))
    }

    fn select(&mut self, kind: &str, with: &[Operand]) -> Result<Option<Op>, PtxError> {
        let p = self.reg(self.nth(with, 3)?, File::Predicate)?;
        Ok(match bytes_of(kind) {
            Some(4) => {
                let [d, a, b] = self.words(with)?;
                Some(Op::Select32(d, a, b, p))
            }
            Some(8) => {
                let [d, a, b] = self.longs(with)?;
                Some(Op::Select64(d, a, b, p))
            }
            _ => None,
        })
    }

    fn setp(&mut self, rest: &[&str], with: &[Operand]) -> Result<Option<Op>, PtxError> {
        let [compare, kind] = rest else { return Ok(None) };
        let width = match *kind {
            "u32" | "b32" => Width::Unsigned32,
            "s32" => Width::Signed32,
            "f32" => Width::Float32,
            "u64" | "b64" => Width::Unsigned64,
            "s64" => Width::Signed64,
            "f64" => Width::Float64,
            _ => return Ok(None),
        };
        let compare = match *compare {
            "eq" => Compare::Eq,
            "ne" => Compare::Ne,
            "lt" | "lo" => Compare::Lt,
            "le" | "ls" => Compare::Le,
            "gt" | "hi" => Compare::Gt,
            "ge" | "hs" => Compare::Ge,
            "leu" => Compare::NotGt,
            "geu" => Compare::NotLt,
            "ltu" => Compare::NotGe,
            "gtu" => Compare::NotLe,
            _ => return Ok(None),
        };
        let p = self.reg(self.nth(with, 0)?, File::Predicate)?;
        let is_long = matches!(width, Width::Unsigned64 | Width::Signed64 | Width::Float64);
        let file = if is_long { File::Long } else { File::Word };
        let (a, b) = (self.reg(self.nth(with, 1)?, file)?, self.reg(self.nth(with, 2)?, file)?);
        Ok(Some(Op::SetP(compare, width, p, a, b)))
    }

    fn cvt(&mut self, rest: &[&str], with: &[Operand]) -> Result<Option<Op>, PtxError> {
        Ok(Some(match rest {
            ["u64" | "s64", from @ ("u32" | "s32")] => {
                Op::Extend(*from == "s32", self.long(with, 0)?, self.word(with, 1)?)
            }
            ["u32" | "s32", "u64" | "s64"] => Op::Narrow(self.word(with, 0)?, self.long(with, 1)?),
            ["rn", "f32", from @ ("u32" | "s32")] => {
                let op = if *from == "u32" { Un32::FromUnsigned } else { Un32::FromSigned };
                Op::Un32(op, self.word(with, 0)?, self.word(with, 1)?)
            }
            ["rzi", "s32", "f32"] => {
                Op::Un32(Un32::ToSigned, self.word(with, 0)?, self.word(with, 1)?)
            }
            ["rn", to @ ("bf16x2" | "f16x2"), "f32"] => {
                let kind = if *to == "bf16x2" { Half::Bf16 } else { Half::Fp16 };
                let [d, high, low] = self.words(with)?;
                Op::Halves(kind, d, high, low)
            }
            ["rn", "f64", from @ ("u32" | "s32")] => {
                Op::DoubleFrom(*from == "s32", self.long(with, 0)?, self.word(with, 1)?)
            }
            ["f64", "f32"] => Op::DoubleFromSingle(self.long(with, 0)?, self.word(with, 1)?),
            ["rn", "f32", "f64"] => Op::SingleFromDouble(self.word(with, 0)?, self.long(with, 1)?),
            _ => return Ok(None),
        }))
    }

    fn mov(&mut self, kind: &str, with: &[Operand]) -> Result<Option<Op>, PtxError> {
        if kind == "pred" {
            let d = self.reg(self.nth(with, 0)?, File::Predicate)?;
            return Ok(Some(match self.nth(with, 1)? {
                Operand::Immediate(bits) => Op::PredicateSet(d, bits & 1 == 1),
                other @ (Operand::Name(_) | Operand::Address(..) | Operand::Vector(_)) => {
                    let a = self.reg(other, File::Predicate)?;
                    Op::Predicate(Logic::And, d, a, a)
                }
            }));
        }
        Ok(match (bytes_of(kind), with) {
            (Some(8), [d, Operand::Vector(pair)]) => {
                let d = self.reg(d, File::Long)?;
                Some(Op::Pack(d, self.word(pair, 0)?, self.word(pair, 1)?))
            }
            (Some(8), [Operand::Vector(pair), a]) => {
                let a = self.reg(a, File::Long)?;
                Some(Op::Unpack(self.word(pair, 0)?, self.word(pair, 1)?, a))
            }
            (Some(8), [d, Operand::Name(name)]) if name == "%clock64" => {
                Some(Op::Clock(self.reg(d, File::Long)?))
            }
            (Some(8), [d, a]) => {
                let d = self.reg(d, File::Long)?;
                Some(Op::Un64(Un64::Mov, d, self.reg(a, File::Long)?))
            }
            (Some(4), [d, a]) => {
                let d = self.reg(d, File::Word)?;
                Some(Op::Un32(Un32::Mov, d, self.reg(a, File::Word)?))
            }
            _ => None,
        })
    }

    /// Of a whole warp: others are refused when it runs.
    fn ballot(&mut self, with: &[Operand]) -> Result<Op, PtxError> {
        let p = self.reg(self.nth(with, 1)?, File::Predicate)?;
        Ok(Op::Ballot(self.word(with, 0)?, p))
    }

    fn shuffle(&mut self, rest: &[&str], with: &[Operand]) -> Result<Option<Op>, PtxError> {
        let (way, clamp) = match rest {
            ["sync", "bfly", "b32"] => (Way::Across, 31),
            ["sync", "idx", "b32"] => (Way::Index, 31),
            ["sync", "up", "b32"] => (Way::Below, 0),
            ["sync", "down", "b32"] => (Way::Above, 31),
            _ => return Ok(None),
        };
        let [d, a, by] = self.words(with)?;
        let rest = (self.nth(with, 3)?, self.nth(with, 4)?);
        let whole = |it: &Operand| matches!(it, Operand::Immediate(bits) if *bits & 0xffff_ffff == 0xffff_ffff);
        if rest.0 != &Operand::Immediate(clamp) || !whole(rest.1) {
            return Err(self.bad("a shuffle within a part of a warp is not known here"));
        }
        Ok(Some(Op::Shuffle(way, d, a, by)))
    }

    fn atom(&mut self, rest: &[&str], with: &[Operand], name: &str) -> Result<Op, PtxError> {
        let bad = self.bad(format!("the instruction `{name}` is not known here"));
        let [space, kind, width] = rest else { return Err(bad) };
        let kind = match (*kind, *width) {
            ("add", "u32" | "s32") => AtomKind::Add,
            ("and", "b32") => AtomKind::And,
            ("or", "b32") => AtomKind::Or,
            ("xor", "b32") => AtomKind::Xor,
            ("max", "u32") => AtomKind::Max,
            ("min", "u32") => AtomKind::Min,
            ("exch", "b32") => AtomKind::Exchange,
            _ => return Err(bad),
        };
        let space = self.space(space)?;
        let d = self.word(with, 0)?;
        let (at, offset) = self.address(self.nth(with, 1)?)?;
        Ok(Op::Atom(space, kind, d, at, offset, self.word(with, 2)?))
    }

    fn space(&self, name: &str) -> Result<Space, PtxError> {
        match name {
            "global" => Ok(Space::Global),
            "shared" => Ok(Space::Shared),
            "const" => Ok(Space::Constant),
            other => Err(self.bad(format!("the memory `{other}` is not known here"))),
        }
    }

    fn address(&mut self, it: &Operand) -> Result<(Reg, i64), PtxError> {
        match it {
            Operand::Address(base, offset) => {
                Ok((self.reg(&Operand::Name(base.clone()), File::Long)?, *offset))
            }
            Operand::Name(_) | Operand::Immediate(_) | Operand::Vector(_) => {
                Err(self.bad("an address is missing"))
            }
        }
    }

    fn load(&mut self, rest: &[&str], with: &[Operand]) -> Result<Op, PtxError> {
        let kind = rest.last().copied().unwrap_or_default();
        let bytes = bytes_of(kind).filter(|it| *it >= 4);
        let bytes =
            bytes.ok_or_else(|| self.bad(format!("a load of `{kind}` is not known here")))?;
        if rest.first() == Some(&"param") {
            let Operand::Address(name, 0) = self.nth(with, 1)? else {
                return Err(self.bad("a part of a parameter is not known here"));
            };
            let (at, _) = *self
                .parameters
                .get(name)
                .ok_or_else(|| self.bad(format!("`{name}` is no parameter")))?;
            return Ok(if bytes == 4 {
                Op::Param32(self.word(with, 0)?, at)
            } else {
                Op::Param64(self.long(with, 0)?, at)
            });
        }
        let (space, file) = self.access(rest, bytes)?;
        let into = self.vector(self.nth(with, 0)?, file)?;
        let (at, offset) = self.address(self.nth(with, 1)?)?;
        Ok(if bytes == 4 {
            Op::Load(space, into, at, offset)
        } else {
            Op::Load64(space, into, at, offset)
        })
    }

    fn store(&mut self, rest: &[&str], with: &[Operand]) -> Result<Op, PtxError> {
        let kind = rest.last().copied().unwrap_or_default();
        let bytes = bytes_of(kind).filter(|it| *it >= 4);
        let bytes =
            bytes.ok_or_else(|| self.bad(format!("a store of `{kind}` is not known here")))?;
        let (space, file) = self.access(rest, bytes)?;
        let (at, offset) = self.address(self.nth(with, 0)?)?;
        let from = self.vector(self.nth(with, 1)?, file)?;
        Ok(if bytes == 4 {
            Op::Store(space, from, at, offset)
        } else {
            Op::Store64(space, from, at, offset)
        })
    }

    /// The memory that is meant; how it is cached makes no difference here.
    fn access(&self, rest: &[&str], bytes: usize) -> Result<(Space, File), PtxError> {
        let known = ["volatile", "relaxed", "gpu", "sys", "cs", "cg", "ca", "cv", "wb", "v2", "v4"];
        let mut space = None;
        for word in &rest[..rest.len().saturating_sub(1)] {
            if !known.contains(word) {
                space = Some(self.space(word)?);
            }
        }
        let space = space.ok_or_else(|| self.bad("an access without its memory"))?;
        Ok((space, if bytes == 4 { File::Word } else { File::Long }))
    }

    fn vector(&mut self, it: &Operand, file: File) -> Result<Box<[Reg]>, PtxError> {
        match it {
            Operand::Vector(all) => all.iter().map(|it| self.reg(it, file)).collect(),
            one @ (Operand::Name(_) | Operand::Immediate(_) | Operand::Address(..)) => {
                Ok([self.reg(one, file)?].into())
            }
        }
    }

    fn mma(&mut self, rest: &[&str], with: &[Operand], name: &str) -> Result<Op, PtxError> {
        let kind = match rest {
            ["sync", "aligned", shape, "row", "col", types @ ..] => match (*shape, types) {
                ("m16n8k16", ["f32", "bf16", "bf16", "f32"]) => Some(MmaKind::Bf16),
                ("m16n8k16", ["f32", "f16", "f16", "f32"]) => Some(MmaKind::Fp16),
                ("m16n8k8", ["f32", "tf32", "tf32", "f32"]) => Some(MmaKind::Tf32),
                ("m16n8k32", ["s32", "s8", "s8", "s32"]) => Some(MmaKind::Int8),
                ("m16n8k32", ["f32", "e4m3", "e4m3", "f32"]) => Some(MmaKind::E4m3),
                ("m16n8k32", ["kind::f8f6f4", "f32", "e4m3", "e4m3", "f32"]) => Some(MmaKind::E4m3),
                ("m16n8k64", types) if types == SCALED => Some(MmaKind::E2m1),
                ("m8n8k4", ["f64", "f64", "f64", "f64"]) => Some(MmaKind::Fp64),
                _ => None,
            },
            _ => None,
        };
        let kind =
            kind.ok_or_else(|| self.bad(format!("the instruction `{name}` is not known here")))?;
        let file = if kind == MmaKind::Fp64 { File::Long } else { File::Word };
        let mut each = [const { Vec::new() }; 4];
        for (nth, registers) in each.iter_mut().enumerate() {
            *registers = self.vector(self.nth(with, nth)?, file)?.into_vec();
        }
        let scales = match kind {
            MmaKind::E2m1 => vec![self.scale(with, 4)?, self.scale(with, 6)?],
            MmaKind::Bf16
            | MmaKind::Fp16
            | MmaKind::Tf32
            | MmaKind::Int8
            | MmaKind::E4m3
            | MmaKind::Fp64 => Vec::new(),
        };
        let [d, a, b, c] = each;
        let lengths = [d.len(), a.len(), b.len(), c.len()];
        let wanted = if kind == MmaKind::Fp64 { [2, 1, 1, 2] } else { [4, 4, 2, 4] };
        if lengths != wanted {
            return Err(self.bad(format!("`{name}` with {lengths:?} registers")));
        }
        Ok(Op::Mma(kind, Box::new(Fragments { d, a, b, c, scales })))
    }

    /// A register of scales, followed by which bytes and lanes it is taken from: always the first.
    fn scale(&mut self, with: &[Operand], at: usize) -> Result<Reg, PtxError> {
        let first = Operand::Vector(vec![Operand::Immediate(0), Operand::Immediate(0)]);
        let scales = self.vector(self.nth(with, at)?, File::Word)?;
        match &*scales {
            [scale] if *self.nth(with, at + 1)? == first => Ok(*scale),
            _ => Err(self.bad("scales that are chosen by lanes are not known here")),
        }
    }

    fn label(&self, it: Option<&Operand>) -> Result<u32, PtxError> {
        let Some(Operand::Name(name)) = it else { return Err(self.bad("a branch to nowhere")) };
        let found = self.labels.get(name).copied();
        found.ok_or_else(|| self.bad(format!("there is no label `{name}`")))
    }

    fn nth<'a>(&self, with: &'a [Operand], nth: usize) -> Result<&'a Operand, PtxError> {
        with.get(nth).ok_or_else(|| self.bad("an operand is missing"))
    }

    fn words<const N: usize>(&mut self, with: &[Operand]) -> Result<[Reg; N], PtxError> {
        let mut all = [0; N];
        for (nth, reg) in all.iter_mut().enumerate() {
            *reg = self.word(with, nth)?;
        }
        Ok(all)
    }

    fn longs<const N: usize>(&mut self, with: &[Operand]) -> Result<[Reg; N], PtxError> {
        let mut all = [0; N];
        for (nth, reg) in all.iter_mut().enumerate() {
            *reg = self.long(with, nth)?;
        }
        Ok(all)
    }

    fn word(&mut self, with: &[Operand], nth: usize) -> Result<Reg, PtxError> {
        self.reg(self.nth(with, nth)?, File::Word)
    }

    fn long(&mut self, with: &[Operand], nth: usize) -> Result<Reg, PtxError> {
        self.reg(self.nth(with, nth)?, File::Long)
    }

    #[expect(clippy::cast_possible_truncation, reason = "an immediate has the register's width")]
    fn reg(&mut self, it: &Operand, file: File) -> Result<Reg, PtxError> {
        match it {
            Operand::Immediate(bits) => match file {
                File::Word => Ok(*self
                    .constants_32
                    .entry(*bits as u32)
                    .or_insert_with(|| next(&mut self.next_32))),
                File::Long => {
                    Ok(*self.constants_64.entry(*bits).or_insert_with(|| next(&mut self.next_64)))
                }
                File::Predicate => Err(self.bad("a predicate is no number")),
            },
            Operand::Name(name) => self.by_name(name, file),
            Operand::Address(..) | Operand::Vector(_) => Err(self.bad("a register is missing")),
        }
    }

    fn by_name(&mut self, name: &str, file: File) -> Result<Reg, PtxError> {
        if let Some(reg) = self.named.get(name) {
            let declared = self.declared(name);
            return if declared == Some(file) || declared.is_none() {
                Ok(*reg)
            } else {
                Err(self.bad(format!("`{name}` has another width than its use")))
            };
        }
        if let Some(declared) = self.declared(name) {
            if declared != file {
                return Err(self.bad(format!("`{name}` has another width than its use")));
            }
            let reg = next(match file {
                File::Word => &mut self.next_32,
                File::Long => &mut self.next_64,
                File::Predicate => &mut self.next_predicate,
            });
            self.named.insert(name.to_owned(), reg);
            return Ok(reg);
        }
        if let Some(special) = special(name).filter(|_| file == File::Word) {
            let next_32 = &mut self.next_32;
            return Ok(*self.specials.entry(special).or_insert_with(|| next(next_32)));
        }
        let place = self.shared.get(name).or_else(|| self.constant.get(name)).copied();
        if let Some(at) = place {
            return self.reg(&Operand::Immediate(at as u64), file);
        }
        Err(self.bad(format!("`{name}` is not known here")))
    }

    fn declared(&self, name: &str) -> Option<File> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        self.prefixes.iter().find(|(prefix, _)| prefix == stem).map(|(_, file)| *file)
    }
}

fn next(counter: &mut Reg) -> Reg {
    let reg = *counter;
    *counter = counter.checked_add(1).expect("a kernel has fewer registers than 65,536");
    reg
}

fn special(name: &str) -> Option<Special> {
    Some(match name {
        "%tid.x" => Special::Thread,
        "%ntid.x" => Special::Threads,
        "%ctaid.x" => Special::Block,
        "%nctaid.x" => Special::Blocks,
        "%laneid" => Special::Lane,
        "%warpid" => Special::Warp,
        "%smid" => Special::Sm,
        "%tid.y" | "%tid.z" | "%ctaid.y" | "%ctaid.z" => Special::Zero,
        "%ntid.y" | "%ntid.z" | "%nctaid.y" | "%nctaid.z" => Special::One,
        _ => return None,
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all others are nobody's fault")]
fn class_of(base: &str, rest: &[&str], op: &Op) -> Class {
    let is_approximate = |op: &Un32| {
        use Un32::{Cos, Ex2, Lg2, Rcp, Rsqrt, Sin};
        matches!(op, Ex2 | Lg2 | Sin | Cos | Rsqrt | Rcp)
    };
    match op {
        Op::Bin32(Bin32::Mul | Bin32::MulHigh, ..) | Op::Mad32(..) => Class::Integer,
        Op::Fma32(..) | Op::Float32(..) => Class::Float,
        Op::Un32(op, ..) if is_approximate(op) => Class::Special,
        Op::Load(Space::Shared, ..) => Class::Shared,
        Op::Load(Space::Constant, ..) => Class::Constant,
        Op::Load(Space::Global, ..) if rest.contains(&"ca") => Class::Cached,
        Op::Shuffle(..) => Class::Shuffle,
        _ if base == "mma" => Class::Tensor,
        _ => Class::Other,
    }
}

fn bin_32(base: &str, mode: &str, kind: &str) -> Option<Bin32> {
    let is_word = matches!(kind, "b32" | "u32" | "s32");
    let signed = kind == "s32";
    Some(match base {
        _ if !is_word => return None,
        "add" if mode == kind => Bin32::Add,
        "sub" if mode == kind => Bin32::Sub,
        "mul" if mode == "lo" => Bin32::Mul,
        "mul" if mode == "hi" && signed => Bin32::MulHighSigned,
        "mul" if mode == "hi" => Bin32::MulHigh,
        "and" => Bin32::And,
        "or" => Bin32::Or,
        "xor" => Bin32::Xor,
        "shl" => Bin32::Shl,
        "shr" if signed => Bin32::ShrSigned,
        "shr" => Bin32::Shr,
        "min" if signed => Bin32::MinSigned,
        "min" => Bin32::Min,
        "max" if signed => Bin32::MaxSigned,
        "max" => Bin32::Max,
        "div" if !signed => Bin32::Div,
        "rem" if !signed => Bin32::Rem,
        _ => return None,
    })
}

fn bin_64(base: &str, mode: &str, kind: &str) -> Option<Bin64> {
    let is_long = matches!(kind, "b64" | "u64" | "s64");
    let signed = kind == "s64";
    Some(match base {
        _ if !is_long => return None,
        "add" if mode == kind => Bin64::Add,
        "sub" if mode == kind => Bin64::Sub,
        "mul" if mode == "lo" => Bin64::Mul,
        "mul" if mode == "hi" && !signed => Bin64::MulHigh,
        "and" => Bin64::And,
        "or" => Bin64::Or,
        "xor" => Bin64::Xor,
        "shl" => Bin64::Shl,
        "shr" if signed => Bin64::ShrSigned,
        "shr" => Bin64::Shr,
        "min" if !signed => Bin64::Min,
        "max" if !signed => Bin64::Max,
        "div" if !signed => Bin64::Div,
        "rem" if !signed => Bin64::Rem,
        _ => return None,
    })
}

fn un_32(base: &str, mode: &str, kind: &str) -> Option<Un32> {
    Some(match (base, mode, kind) {
        ("not", _, "b32") => Un32::Not,
        ("neg", _, "s32") => Un32::Neg,
        ("neg", _, "f32") => Un32::NegFloat,
        ("abs", _, "f32") => Un32::AbsFloat,
        ("popc", _, "b32") => Un32::Popc,
        ("clz", _, "b32") => Un32::Clz,
        ("brev", _, "b32") => Un32::Brev,
        ("sqrt", "rn", "f32") => Un32::Sqrt,
        ("ex2", "approx", "f32") => Un32::Ex2,
        ("lg2", "approx", "f32") => Un32::Lg2,
        ("sin", "approx", "f32") => Un32::Sin,
        ("cos", "approx", "f32") => Un32::Cos,
        ("rsqrt", "approx", "f32") => Un32::Rsqrt,
        ("rcp", "approx", "f32") => Un32::Rcp,
        _ => return None,
    })
}

fn float(base: &str, mode: &str) -> Option<Float> {
    Some(match (base, mode) {
        ("add", "rn" | "f32" | "f64") => Float::Add,
        ("sub", "rn" | "f32" | "f64") => Float::Sub,
        ("mul", "rn" | "f32" | "f64") => Float::Mul,
        ("div", "rn") => Float::Div,
        ("min", "f32" | "f64") => Float::Min,
        ("max", "f32" | "f64") => Float::Max,
        _ => return None,
    })
}
