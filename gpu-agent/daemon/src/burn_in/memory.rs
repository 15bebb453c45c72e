//! The whole memory, by passes of patterns.

use std::time::Duration;

use gpu_agent_core::burn_in::memory::{Canary, Mismatch, Numbers, Pattern, Piece, VECTOR};

use super::child::Request;
use super::cuda::{Argument, Failure, FailureKind, Gpu, Kernel, Pinned, Shape};
use super::kernels;

const THREADS: u32 = 256;
/// Blocks of each SM.
const BLOCKS: u32 = 8;
/// The log's layout: words before the records, of a record, and records.
pub(super) const HEAD: usize = 8 + 512;
pub(super) const RECORD: usize = 20;
pub(super) const RECORDS: usize = 512;
/// Bytes of rows that are read in turns: where rows lie is not told, so several are tried.
const ROWS: [u64; 4] = [1 << 10, 2 << 10, 4 << 10, 8 << 10];
/// How often all of a stretch of rows is read, and how many times the second-level cache's bytes a
/// stretch is: what is read again must come from memory.
const ROW_TIMES: u32 = 4;
const STRETCH: u64 = 4;
/// Mismatches that are told of one pass, so that an answer stays small.
const TOLD_MAX: usize = 256;
/// Largest and smallest piece that is asked for, and what is left to the driver.
const PIECE_MAX: u64 = 4 << 30;
const PIECE_MIN: u64 = 1 << 10;
const PIECES_MAX: usize = 256;
const RESERVE_MAX: u64 = 48 << 20;
const PATTERNS: [(Pattern, &str); 5] = [
    (Pattern::Address, "address"),
    (Pattern::Random, "random"),
    (Pattern::Walk, "walk"),
    (Pattern::Checker, "checker"),
    (Pattern::Modulo, "modulo"),
];

/// A pattern's two kernels.
struct Pair {
    pattern: Pattern,
    fill: Kernel,
    check: Kernel,
}

/// What is done between writing and checking.
#[derive(Clone, Copy)]
enum Between {
    Nothing,
    /// Memory is left alone.
    Hold(Duration),
    /// Rows are read in turns.
    Rows,
}

struct Bench<'a> {
    gpu: &'a Gpu,
    pairs: Vec<Pair>,
    rows: Kernel,
    pieces: Vec<Piece>,
    /// By piece and block: the SM that wrote last, in the fill and in the check that inverts.
    writers: [Pinned; 2],
    log: Pinned,
}

/// Takes all free memory and tests it.
///
/// # Errors
/// The driver refuses, or the GPU breaks.
pub(super) fn test(gpu: &Gpu, request: &Request) -> Result<Numbers, Failure> {
    let fills = PATTERNS.map(|(_, name)| format!("memory_fill_{name}"));
    let checks = PATTERNS.map(|(_, name)| format!("memory_check_{name}"));
    let mut names: Vec<&str> = fills.iter().chain(&checks).map(String::as_str).collect();
    names.push("memory_read_rows");
    let mut fills = gpu.load(kernels::MEMORY, &names)?;
    let rows = fills.pop().ok_or_else(|| Failure::driver("the kernels are not there"))?;
    let checks = fills.split_off(PATTERNS.len());
    let pairs = PATTERNS.iter().zip(fills).zip(checks);
    let (free, total) = gpu.settled_bytes()?;
    let pieces = take_all(gpu, total)?;
    let blocks = (gpu.info.sms * BLOCKS) as usize * pieces.len();
    let bench = Bench {
        gpu,
        rows,
        pairs: pairs.map(|((it, fill), check)| Pair { pattern: it.0, fill, check }).collect(),
        writers: [gpu.pinned(blocks)?, gpu.pinned(blocks)?],
        log: gpu.pinned(HEAD + RECORDS * RECORD)?,
        pieces,
    };
    bench.run(request, free)
}

/// Pieces as large as can be had, until next to nothing is left.
fn take_all(gpu: &Gpu, total: u64) -> Result<Vec<Piece>, Failure> {
    let reserve = (total / 256).min(RESERVE_MAX);
    let (mut pieces, mut size, mut first) = (Vec::new(), PIECE_MAX, 0);
    while size >= PIECE_MIN && pieces.len() < PIECES_MAX {
        let (free, _) = gpu.free_bytes()?;
        let taken = if free < size + reserve { None } else { gpu.take(size) };
        match taken {
            Some(address) => {
                let count = size / VECTOR;
                pieces.push(Piece { first, count, address });
                first += count;
            }
            None => size /= 2,
        }
    }
    if pieces.is_empty() {
        return Err(Failure::new(FailureKind::Driver, "no memory of the GPU is free"));
    }
    Ok(pieces)
}

impl Bench<'_> {
    fn run(self, request: &Request, free: u64) -> Result<Numbers, Failure> {
        let mut numbers = Numbers {
            pieces: self.pieces.clone(),
            bytes_free: free,
            passes: request.passes,
            ..Numbers::default()
        };
        // Some seeds would leave a pattern as it was; these do not repeat.
        let seed = |pass: u32| {
            let mixed = u64::from(kernels::mix(pass.wrapping_add(1)));
            request.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ mixed << 32 ^ mixed.rotate_left(7)
        };
        for pass in 0..request.passes {
            self.pass(pass, seed(pass), Between::Nothing, &mut numbers)?;
        }
        // Of random numbers, each half of the bits can fall, and of their complements the others.
        let random = (request.passes..).filter(|it| self.pattern(*it) == Pattern::Random);
        let mut random = random.map(|pass| (pass, seed(pass)));
        if let Some((pass, seed)) = random.next().filter(|_| request.hold_seconds > 0) {
            // Cells that lose what they hold need time to.
            let hold = Duration::from_secs(request.hold_seconds.into());
            self.pass(pass, seed, Between::Hold(hold), &mut numbers)?;
            numbers.held = Some(pass);
            numbers.passes += 1;
        }
        if let Some((pass, seed)) = random.next().filter(|_| request.rows) {
            self.pass(pass, seed, Between::Rows, &mut numbers)?;
            numbers.disturbed = Some(pass);
            numbers.passes += 1;
        }
        self.canary(seed(numbers.passes), request.seed, &mut numbers)?;
        Ok(numbers)
    }

    fn pattern(&self, pass: u32) -> Pattern {
        self.pairs[pass as usize % self.pairs.len()].pattern
    }

    /// Writes, checks while inverting, checks the complement; before each check something is done.
    fn pass(
        &self,
        pass: u32,
        seed: u64,
        between: Between,
        numbers: &mut Numbers,
    ) -> Result<(), Failure> {
        let pair = &self.pairs[pass as usize % self.pairs.len()];
        let blocks = self.gpu.info.sms * BLOCKS;
        // Another SM writes, checks and checks again, and how far they are apart differs from pass
        // to pass: whom all mismatches follow is then no matter of the map.
        let apart = 1 + pass % self.gpu.info.sms.saturating_sub(1).max(1);
        let shift = |nth: u32| pass.wrapping_mul(3).wrapping_add(nth * apart) % blocks;
        let nanos = self.gpu.timed(|| self.fill(pair, seed, shift(0)))?;
        numbers.nanos += nanos;
        for (nth, flipped) in [(1, false), (2, true)] {
            self.gpu.wait()?;
            match between {
                Between::Nothing => {}
                Between::Hold(hold) => std::thread::sleep(hold / 2),
                Between::Rows => self.read_rows()?,
            }
            self.log.clear();
            numbers.nanos += self.gpu.timed(|| self.check(pair, seed, shift(nth), flipped))?;
            self.collect(pass, pair.pattern, seed, flipped, numbers);
        }
        numbers.bytes_moved += numbers.bytes() * 4;
        Ok(())
    }

    /// Reads rows in turns, of every second row of all memory and then of the others, for each size.
    fn read_rows(&self) -> Result<(), Failure> {
        use Argument::{Long, Word};
        let small = |it: u64| u32::try_from(it).unwrap_or(u32::MAX);
        let stretch = (self.gpu.second_level_bytes()? * STRETCH).next_multiple_of(1 << 20);
        for piece in &self.pieces {
            let end = piece.address + piece.count * VECTOR;
            let begins = (0..).map(|nth| piece.address + nth * stretch);
            for begin in begins.take_while(|at| *at < end) {
                let bytes = (end - begin).min(stretch);
                for (row, odd) in ROWS.iter().flat_map(|row| [(*row, 0), (*row, 1)]) {
                    let (rows, row) = (Word(small(bytes / row)), Word(small(row)));
                    let arguments = [Long(begin), rows, row, Word(odd), Word(ROW_TIMES)];
                    self.gpu.launch(&self.rows, self.shape(), &arguments)?;
                }
            }
        }
        self.gpu.wait()
    }

    /// Where the writers of each piece are noted.
    fn writers_of(&self, of: usize) -> impl Iterator<Item = u64> {
        let bytes = u64::from(self.gpu.info.sms * BLOCKS) * 4;
        let first = self.writers[of].address();
        (0..).map(move |nth: u64| first + nth * bytes)
    }

    fn shape(&self) -> Shape {
        Shape { blocks: self.gpu.info.sms * BLOCKS, threads: THREADS, shared: 0 }
    }

    fn fill(&self, pair: &Pair, seed: u64, shift: u32) -> Result<(), Failure> {
        use Argument::{Long, Word};
        for (piece, writers) in self.pieces.iter().zip(self.writers_of(0)) {
            let arguments = [
                Long(piece.address),
                Word(u32::try_from(piece.count).unwrap_or(u32::MAX)),
                Long(piece.first),
                Long(seed),
                Word(shift),
                Long(writers),
            ];
            self.gpu.launch(&pair.fill, self.shape(), &arguments)?;
        }
        Ok(())
    }

    fn check(&self, pair: &Pair, seed: u64, shift: u32, flipped: bool) -> Result<(), Failure> {
        use Argument::{Long, Word};
        for (piece, writers) in self.pieces.iter().zip(self.writers_of(1)) {
            let arguments = [
                Long(piece.address),
                Word(u32::try_from(piece.count).unwrap_or(u32::MAX)),
                Long(piece.first),
                Long(seed),
                Word(if flipped { u32::MAX } else { 0 }),
                Word(u32::from(!flipped)),
                Word(shift),
                Long(writers),
                Long(self.log.address()),
            ];
            self.gpu.launch(&pair.check, self.shape(), &arguments)?;
        }
        Ok(())
    }

    fn collect(
        &self,
        pass: u32,
        pattern: Pattern,
        seed: u64,
        flipped: bool,
        numbers: &mut Numbers,
    ) {
        let words = self.log.read();
        let count = words[0] as usize;
        numbers.count += u64::from(words[0]);
        let writers = self.writers[usize::from(flipped)].read();
        let (records, _) = words[HEAD..].as_chunks::<RECORD>();
        let mut told = 0;
        for record in records.iter().take(count.min(RECORDS)) {
            if record[RECORD - 1] != kernels::sum(record[..16].iter().copied()) {
                numbers.spoiled += 1;
                continue;
            }
            told += 1;
            if told > TOLD_MAX {
                break;
            }
            let index = u64::from(record[1]) << 32 | u64::from(record[0]);
            let four = |at: usize| std::array::from_fn(|nth| record[at + nth]);
            let (want, got, again) = (four(2), four(6), four(10));
            let writer = writers.get(self.row_of(index)).copied().unwrap_or(u32::MAX);
            let reader = record[14];
            numbers.mismatches.push(Mismatch {
                pass,
                pattern,
                seed,
                flipped,
                index,
                want,
                got,
                again,
                reader,
                writer,
            });
        }
    }

    /// Where a vector's writer is noted: by piece, then by block as kernels number them after their
    /// turn.
    fn row_of(&self, index: u64) -> usize {
        let blocks = u64::from(self.gpu.info.sms * BLOCKS);
        let holds = |it: &Piece| it.first <= index;
        let piece = self.pieces.iter().rposition(holds).unwrap_or(0);
        let block = (index - self.pieces[piece].first) / u64::from(THREADS) % blocks;
        usize::try_from(piece as u64 * blocks + block).unwrap_or(0)
    }

    /// Turns one bit round between writing and checking: it must be found, or nothing would be.
    fn canary(&self, seed: u64, chance: u64, numbers: &mut Numbers) -> Result<(), Failure> {
        let pair = &self.pairs[1];
        let piece = self.pieces[0];
        let nth = chance.wrapping_mul(0x2545_f491_4f6c_dd1d) % piece.count;
        self.fill(pair, seed, 0)?;
        self.gpu.wait()?;
        let bit = chance % 128;
        self.gpu.change_vector(piece.address + nth * VECTOR, |words| {
            words[usize::try_from(bit / 32).unwrap_or(0)] ^= 1 << (bit % 32);
        })?;
        self.log.clear();
        self.check(pair, seed, 1 % (self.gpu.info.sms * BLOCKS), false)?;
        self.gpu.wait()?;
        let mut seen = Numbers { pieces: self.pieces.clone(), ..Numbers::default() };
        self.collect(numbers.passes, pair.pattern, seed, false, &mut seen);
        let found = seen.mismatches.iter().map(|it| it.index).collect();
        numbers.canary = Some(Canary { index: piece.first + nth, found });
        Ok(())
    }
}
