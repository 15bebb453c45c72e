//! The text of a module, taken apart into entries, declarations and statements.

use super::PtxError;

/// What a statement works on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    /// A register, a special register, a label or a symbol: `%r1`, `%tid.x`, `$L__BB0_1`.
    Name(String),
    /// Bits: an integer, or the bits of a floating point literal.
    Immediate(u64),
    /// `[base + offset]`.
    Address(String, i64),
    /// `{a, b}`.
    Vector(Vec<Operand>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Statement {
    pub line: usize,
    /// The predicate that lets it run, and whether it is negated.
    pub guard: Option<(String, bool)>,
    pub opcode: String,
    pub operands: Vec<Operand>,
}

/// Space for `count` registers with a common name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Declaration {
    pub kind: String,
    pub prefix: String,
}

/// One kernel as it stands in the text.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub name: String,
    /// Name and width in bytes, in order.
    pub parameters: Vec<(String, usize)>,
    pub registers: Vec<Declaration>,
    /// Name, alignment and bytes; a size of 0 is given by the launch.
    pub shared: Vec<(String, usize, usize)>,
    /// Name and bytes of constant memory.
    pub constants: Vec<(String, Vec<u8>)>,
    /// Label, and the statement before which it stands.
    pub labels: Vec<(String, usize)>,
    pub statements: Vec<Statement>,
}

/// Architectures whose own instructions (wgmma, tcgen05) work on memory by descriptors.
const UNKNOWN_TARGETS: [&str; 2] = ["sm_90a", "sm_100a"];

/// What a module's `.target` names, as of `sm_120a`: 120, and true for the letter.
pub(super) fn target(text: &str) -> (u32, bool) {
    let named = text.lines().find_map(|line| line.trim_start().strip_prefix(".target sm_"));
    let named = named.unwrap_or_default().trim();
    let number = named.trim_end_matches(|it: char| !it.is_ascii_digit());
    (number.parse().unwrap_or(0), number.len() < named.len())
}

/// Takes a module apart. Shared and constant memory that it declares belongs to each entry.
///
/// # Errors
/// A line that makes no sense.
pub(crate) fn parse(text: &str) -> Result<Vec<Entry>, PtxError> {
    if !text.lines().any(|line| line.trim_start().starts_with(".version")) {
        return Err(PtxError::new(1, "this is no PTX: it has no .version"));
    }
    let mut targets = text
        .lines()
        .zip(1..)
        .filter_map(|(line, nth)| Some((line.trim_start().strip_prefix(".target")?.trim(), nth)));
    if let Some((target, line)) = targets.find(|(it, _)| UNKNOWN_TARGETS.contains(it)) {
        let what = format!("{target} has tensor instructions that are not known here");
        return Err(PtxError::new(line, what));
    }
    let mut reader = Reader::default();
    for (nth, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        reader.line = nth + 1;
        reader.take(code)?;
    }
    if reader.inside.is_some() || reader.blocks > 0 || !reader.pending.trim().is_empty() {
        return Err(PtxError::new(reader.line, "the text ends within something"));
    }
    Ok(reader.done)
}

#[derive(Default)]
struct Reader {
    line: usize,
    /// What has begun and not ended.
    pending: String,
    shared: Vec<(String, usize, usize)>,
    constants: Vec<(String, Vec<u8>)>,
    inside: Option<Entry>,
    /// Blocks within the kernel that have not ended. Their registers are the kernel's: the compiler
    /// gives equal names to equal kinds.
    blocks: usize,
    done: Vec<Entry>,
}

impl Reader {
    fn take(&mut self, code: &str) -> Result<(), PtxError> {
        let mut letters = code.chars().peekable();
        let mut before = ' ';
        while let Some(letter) = letters.next() {
            self.pending.push(letter);
            // Two colons are a part of a name.
            let is_double = letter == ':' && (before == ':' || letters.peek() == Some(&':'));
            if matches!(letter, ';' | '{' | '}' | ':') && !is_double {
                self.settle()?;
            }
            before = letter;
        }
        if self.pending.trim_start().starts_with('.') && is_whole_directive(&self.pending) {
            self.pending.clear();
        }
        self.pending.push(' ');
        Ok(())
    }

    /// Takes what is whole out of `pending`.
    fn settle(&mut self) -> Result<(), PtxError> {
        let text = self.pending.trim().to_owned();
        let Some(last) = text.chars().last() else { return Ok(()) };
        let is_vector = self.inside.is_some() && !text.starts_with(['{', '}', '.']) && last != ':';
        // Data has braces of its own.
        let is_data = self.inside.is_none() && text.starts_with(".const");
        match last {
            '{' | '}' if is_data => return Ok(()),
            '{' if self.inside.is_none() => {
                let head = text.trim_end_matches('{').to_owned();
                let mut entry = entry_head(&head, self.line)?;
                entry.shared.clone_from(&self.shared);
                entry.constants.clone_from(&self.constants);
                self.inside = Some(entry);
            }
            '}' if text == "}" && self.blocks > 0 => self.blocks -= 1,
            '}' if text == "}" => match self.inside.take() {
                Some(entry) => self.done.push(entry),
                None => return Err(PtxError::new(self.line, "a `}` without a beginning")),
            },
            '{' if text == "{" => self.blocks += 1,
            ':' => self.label(text.trim_end_matches(':'))?,
            ';' => self.sentence(text.trim_end_matches(';').trim())?,
            '{' | '}' if is_vector => return Ok(()),
            _ => return Ok(()),
        }
        self.pending.clear();
        Ok(())
    }

    fn label(&mut self, name: &str) -> Result<(), PtxError> {
        let line = self.line;
        let entry = self.inside.as_mut();
        let entry = entry.ok_or_else(|| PtxError::new(line, "a label outside of a kernel"))?;
        if entry.labels.iter().any(|(known, _)| known == name.trim()) {
            return Err(PtxError::new(line, format!("the label `{name}` stands here twice")));
        }
        entry.labels.push((name.trim().to_owned(), entry.statements.len()));
        Ok(())
    }

    fn sentence(&mut self, text: &str) -> Result<(), PtxError> {
        if text.is_empty() || text.starts_with(".pragma") {
            return Ok(());
        }
        let line = self.line;
        if text.contains(".shared") && text.starts_with('.') {
            let it = shared(text, line)?;
            self.inside.as_mut().map_or(&mut self.shared, |entry| &mut entry.shared).push(it);
            return Ok(());
        }
        let Some(entry) = self.inside.as_mut() else {
            if text.starts_with(".const") {
                self.constants.push(constant(text, line)?);
                return Ok(());
            }
            // What the compiler leaves behind; a kernel that names it is refused later.
            let is_known = text.starts_with(".global");
            return if is_known { Ok(()) } else { Err(PtxError::new(line, unknown(text))) };
        };
        if let Some(declaration) = text.strip_prefix(".reg") {
            entry.registers.push(register(declaration, line)?);
        } else if text.starts_with('.') {
            return Err(PtxError::new(line, unknown(text)));
        } else {
            entry.statements.push(statement(text, line)?);
        }
        Ok(())
    }
}

fn unknown(text: &str) -> String {
    format!("`{}` is not known here", text.split_whitespace().next().unwrap_or(text))
}

/// True for a directive that ends with its line.
fn is_whole_directive(text: &str) -> bool {
    let text = text.trim();
    [".version", ".target", ".address_size"].iter().any(|it| text.starts_with(it))
}

fn entry_head(head: &str, line: usize) -> Result<Entry, PtxError> {
    let (_, rest) = head.split_once(".entry").ok_or_else(|| PtxError::new(line, unknown(head)))?;
    let (name, rest) = rest.split_once('(').unwrap_or((rest, ""));
    let (list, _) = rest.split_once(')').unwrap_or((rest, ""));
    let mut parameters = Vec::new();
    for parameter in list.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        let mut words = parameter.split_whitespace().rev();
        let name = words.next().unwrap_or_default();
        let kind = words.next().unwrap_or_default();
        let bytes = bytes_of(kind).ok_or_else(|| PtxError::new(line, unknown(parameter)))?;
        parameters.push((name.to_owned(), bytes));
    }
    Ok(Entry { name: name.trim().to_owned(), parameters, ..Entry::default() })
}

/// The width of a type by its last digits.
pub(crate) fn bytes_of(kind: &str) -> Option<usize> {
    let digits = kind.trim_start_matches(|c: char| !c.is_ascii_digit());
    match digits {
        "8" => Some(1),
        "16" => Some(2),
        "32" => Some(4),
        "64" => Some(8),
        _ => None,
    }
}

fn register(text: &str, line: usize) -> Result<Declaration, PtxError> {
    let mut words = text.split_whitespace();
    let (kind, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let prefix = name.split_once('<').map_or(name, |(prefix, _)| prefix);
    if prefix.is_empty() || words.next().is_some() || prefix.contains(',') {
        return Err(PtxError::new(line, format!("`.reg{text}` is not known here")));
    }
    Ok(Declaration { kind: kind.trim_start_matches('.').to_owned(), prefix: prefix.to_owned() })
}

/// `.shared .align 4 .b8 name[256]`.
fn shared(text: &str, line: usize) -> Result<(String, usize, usize), PtxError> {
    let bad = || PtxError::new(line, format!("`{text}` is not known here"));
    let words: Vec<&str> = text.split_whitespace().collect();
    let align = words.iter().position(|it| *it == ".align").and_then(|at| words.get(at + 1));
    let align = align.and_then(|it| it.parse().ok()).unwrap_or(16_usize);
    let (name, size) = words.last().and_then(|it| it.split_once('[')).ok_or_else(bad)?;
    let kind = words.get(words.len().wrapping_sub(2)).ok_or_else(bad)?;
    let each = bytes_of(kind).ok_or_else(bad)?;
    let count = size.trim_end_matches(']');
    let count = if count.is_empty() { 0 } else { count.parse::<usize>().map_err(|_| bad())? };
    Ok((name.to_owned(), align.max(1), count * each))
}

/// `.const .align 4 .b8 name[2] = {1, 2}`.
fn constant(text: &str, line: usize) -> Result<(String, Vec<u8>), PtxError> {
    let bad =
        |what: &str| PtxError::new(line, format!("{what} of constant memory is not known here"));
    let (head, data) = text.split_once('=').ok_or_else(|| bad("a declaration without data"))?;
    let (name, _, room) = shared(head.trim(), line)?;
    let values = data.trim().strip_prefix('{').and_then(|it| it.strip_suffix('}'));
    let values = values.ok_or_else(|| bad("data without braces"))?;
    let mut bytes = Vec::with_capacity(room);
    for value in values.split(',') {
        let value: u8 = value.trim().parse().map_err(|_| bad("what is no byte"))?;
        bytes.push(value);
    }
    if bytes.len() > room {
        return Err(bad("more data than room"));
    }
    bytes.resize(room, 0);
    Ok((name, bytes))
}

fn statement(text: &str, line: usize) -> Result<Statement, PtxError> {
    let (guard, text) = match text.strip_prefix('@') {
        Some(rest) => {
            let (guard, rest) = rest
                .split_once(char::is_whitespace)
                .ok_or_else(|| PtxError::new(line, "a guard without an instruction"))?;
            let name = guard.trim_start_matches('!');
            (Some((name.to_owned(), guard.starts_with('!'))), rest.trim())
        }
        None => (None, text),
    };
    let (opcode, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let operands: Result<Vec<Operand>, PtxError> =
        split(rest).into_iter().map(|it| operand(it, line)).collect();
    Ok(Statement { line, guard, opcode: opcode.to_owned(), operands: operands? })
}

/// At the commas that are in no bracket.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut from, mut found) = (0_usize, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                found.push(text[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    found.push(text[from..].trim());
    found.retain(|it| !it.is_empty());
    found
}

fn operand(text: &str, line: usize) -> Result<Operand, PtxError> {
    let bad = || PtxError::new(line, format!("`{text}` is no operand that is known here"));
    if let Some(inner) = text.strip_prefix('{').and_then(|it| it.strip_suffix('}')) {
        let all: Result<Vec<Operand>, PtxError> =
            split(inner).into_iter().map(|it| operand(it, line)).collect();
        return Ok(Operand::Vector(all?));
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        let (base, offset) = inner.split_once('+').unwrap_or((inner, "0"));
        let offset = offset.trim().parse().map_err(|_| bad())?;
        return Ok(Operand::Address(base.trim().to_owned(), offset));
    }
    if text.starts_with(['%', '$', '_']) || text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Ok(Operand::Name(text.to_owned()));
    }
    immediate(text).map(Operand::Immediate).ok_or_else(bad)
}

fn immediate(text: &str) -> Option<u64> {
    let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
    if let Some(bits) = text.strip_prefix("0f").or_else(|| text.strip_prefix("0d")) {
        return hex(bits);
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return hex(digits.trim_end_matches('U'));
    }
    match text.strip_prefix('-') {
        Some(digits) => digits.parse::<u64>().ok().map(u64::wrapping_neg),
        None => text.trim_end_matches('U').parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_taken_apart() {
        let it = statement("@!%p1 ld.global.v2.u32 {%r1, %r2}, [%rd3+-8]", 7).unwrap();
        assert_eq!(it.guard, Some(("%p1".to_owned(), true)));
        assert_eq!(it.opcode, "ld.global.v2.u32");
        let pair = ["%r1", "%r2"].map(|it| Operand::Name(it.to_owned()));
        assert_eq!(it.operands[0], Operand::Vector(pair.into()));
        assert_eq!(it.operands[1], Operand::Address("%rd3".to_owned(), -8));
    }

    #[test]
    fn literals_are_bits() {
        assert_eq!(immediate("-1"), Some(u64::MAX));
        assert_eq!(immediate("0f3F800000"), Some(u64::from(1.0_f32.to_bits())));
        assert_eq!(immediate("0d3FF0000000000000"), Some(1.0_f64.to_bits()));
        assert_eq!(immediate("1.5"), None);
    }

    #[test]
    fn a_block_within_a_kernel_has_registers_of_its_own() {
        let head = ".version 8.7\n.target sm_80\n.visible .entry k()\n{\n.reg .b32 %r<3>;\n";
        let block = "{ .reg .b32 tmp; mov.b64 {tmp, %r2}, %rd1; }\n";
        let text = format!("{head}{block}ret;\n}}\n");
        let entries = parse(&text).unwrap();
        assert_eq!((entries[0].statements.len(), entries[0].registers.len()), (2, 2));
        assert!(parse(&format!("{head}{block}")).is_err());
        let twice = parse(&format!("{head}again: ret;\nagain: ret;\n}}\n")).unwrap_err();
        assert!(twice.what.contains("twice"), "{twice}");
    }

    #[test]
    fn constant_memory_is_read_with_its_data() {
        let text = ".version 8.7\n.const .align 4 .b8 t[4] = {1, 2, 255};\n\
                    .visible .entry k()\n{\nret;\n}\n";
        assert_eq!(parse(text).unwrap()[0].constants, [("t".to_owned(), vec![1, 2, 255, 0])]);
        for wrong in ["{1, 256}", "{1, 2, 3, 4, 5}", "table"] {
            let error = parse(&text.replace("{1, 2, 255}", wrong)).unwrap_err();
            assert_eq!(error.line, 2, "{wrong}");
        }
    }

    #[test]
    fn what_is_not_ptx_is_refused_with_its_line() {
        assert!(parse("\u{7f}ELF").unwrap_err().what.contains("no PTX"));
        let text = ".version 8.7\n.target sm_80\n.visible .entry k()\n{\n\t.local .b8 x[4];\n}\n";
        let error = parse(text).unwrap_err();
        assert_eq!(error.line, 5);
        assert!(error.what.contains(".local"), "{error}");
        let error = parse(".version 8.7\n.visible .entry k()\n{\n ret;\n").unwrap_err();
        assert!(error.what.contains("ends within"), "{error}");
    }
}
