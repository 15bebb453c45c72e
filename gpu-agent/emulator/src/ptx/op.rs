//! The program that runs: instructions over three register files, 32 lanes wide.

/// A register of 32 or 64 bits, or a predicate: which file follows from the operation.
pub(crate) type Reg = u16;

/// Whose fault an instruction's wrong result would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Other,
    Integer,
    Float,
    Special,
    Tensor,
    Shared,
    Shuffle,
    /// Loads that the SM's own cache may answer.
    Cached,
    Constant,
}

pub(crate) struct Instruction {
    /// Lanes that run it: the predicate, and the bits that turn it round.
    pub guard: Option<(Reg, u32)>,
    pub class: Class,
    /// How many cycles it takes, by the clock that kernels read.
    pub cost: u16,
    pub op: Op,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bin32 {
    Add,
    Sub,
    Mul,
    MulHigh,
    MulHighSigned,
    And,
    Or,
    Xor,
    Shl,
    Shr,
    ShrSigned,
    Min,
    Max,
    MinSigned,
    MaxSigned,
    Div,
    Rem,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bin64 {
    Add,
    Sub,
    Mul,
    MulHigh,
    And,
    Or,
    Xor,
    Shl,
    Shr,
    ShrSigned,
    Min,
    Max,
    Div,
    Rem,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Un32 {
    Mov,
    Not,
    Neg,
    NegFloat,
    AbsFloat,
    Popc,
    Clz,
    Brev,
    FromUnsigned,
    FromSigned,
    /// Towards zero, and to the nearest that there is.
    ToSigned,
    Sqrt,
    Ex2,
    Lg2,
    Sin,
    Cos,
    Rsqrt,
    Rcp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Un64 {
    Mov,
    Not,
    Neg,
    NegFloat,
}

/// Arithmetic of floating point, rounded to nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Float {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// The floating point forms that hold for what is no number.
    NotLe,
    NotGe,
    NotLt,
    NotGt,
}

/// How the operands of a comparison are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Unsigned32,
    Signed32,
    Float32,
    Unsigned64,
    Signed64,
    Float64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
    /// Of the module, read only.
    Constant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomKind {
    Add,
    And,
    Or,
    Xor,
    Max,
    Min,
    Exchange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MmaKind {
    Bf16,
    Fp16,
    Tf32,
    Int8,
    E4m3,
    /// With scales of blocks, all of which must be one.
    E2m1,
    Fp64,
}

/// From which lane a shuffle takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The one whose number differs by these bits.
    Across,
    /// The one with this number.
    Index,
    /// So many below or above; one's own beyond the ends.
    Below,
    Above,
}

/// Floating point of 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    Bf16,
    Fp16,
}

pub(crate) enum Op {
    Bin32(Bin32, Reg, Reg, Reg),
    Bin64(Bin64, Reg, Reg, Reg),
    Un32(Un32, Reg, Reg),
    Un64(Un64, Reg, Reg),
    /// d = a * b + c, the low half.
    Mad32(Reg, Reg, Reg, Reg),
    Mad64(Reg, Reg, Reg, Reg),
    /// 64 = 32 * 32, signed or not.
    Wide(bool, Reg, Reg, Reg),
    /// 64 = 32 * 32 + 64.
    MadWide(bool, Reg, Reg, Reg, Reg),
    Float32(Float, Reg, Reg, Reg),
    Float64(Float, Reg, Reg, Reg),
    Fma32(Reg, Reg, Reg, Reg),
    Fma64(Reg, Reg, Reg, Reg),
    Sqrt64(Reg, Reg),
    /// Funnel shift to the left, of high and low.
    Funnel(Reg, Reg, Reg, Reg),
    Permute(Reg, Reg, Reg, Reg),
    Dot(Reg, Reg, Reg, Reg),
    /// d = b with `a` at bit c, d bits.
    Insert32(Reg, Reg, Reg, Reg, Reg),
    Insert64(Reg, Reg, Reg, Reg, Reg),
    /// 64 from 32.
    Extend(bool, Reg, Reg),
    /// 32 from 64.
    Narrow(Reg, Reg),
    /// A double from an integer of 32 bits.
    DoubleFrom(bool, Reg, Reg),
    DoubleFromSingle(Reg, Reg),
    SingleFromDouble(Reg, Reg),
    /// Two of 16 bits from two singles: d, the upper, the lower.
    Halves(Half, Reg, Reg, Reg),
    Pack(Reg, Reg, Reg),
    Unpack(Reg, Reg, Reg),
    SetP(Compare, Width, Reg, Reg, Reg),
    Predicate(Logic, Reg, Reg, Reg),
    PredicateNot(Reg, Reg),
    /// All lanes or none.
    PredicateSet(Reg, bool),
    Select32(Reg, Reg, Reg, Reg),
    Select64(Reg, Reg, Reg, Reg),
    /// From the launch's arguments, at a byte.
    Param32(Reg, usize),
    Param64(Reg, usize),
    Clock(Reg),
    /// One to four words.
    Load(Space, Box<[Reg]>, Reg, i64),
    Store(Space, Box<[Reg]>, Reg, i64),
    /// Words of 64 bits.
    Load64(Space, Box<[Reg]>, Reg, i64),
    Store64(Space, Box<[Reg]>, Reg, i64),
    Atom(Space, AtomKind, Reg, Reg, i64, Reg),
    Shuffle(Way, Reg, Reg, Reg),
    /// One bit for each lane: whether the predicate holds there.
    Ballot(Reg, Reg),
    Mma(MmaKind, Box<Fragments>),
    Barrier,
    Branch(u32),
    Exit,
}

/// The registers of a matrix operation.
pub(crate) struct Fragments {
    pub d: Vec<Reg>,
    pub a: Vec<Reg>,
    pub b: Vec<Reg>,
    pub c: Vec<Reg>,
    /// Four scales for each row of A, and for each column of B.
    pub scales: Vec<Reg>,
}
