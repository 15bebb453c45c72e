//! Jobs and nodes as traces tell of them.

use std::path::Path;

use crate::read::{Column, Progress, ReadError, Table};

/// Most GPUs of one job, and of one node.
const GPUS_MAX: u32 = 1 << 20;
/// A whole GPU.
pub const WHOLE: u32 = 1_000;

/// One row of a jobs file. What the file does not say is zero or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobRow {
    /// Where it stood in the file.
    pub line: u64,
    pub id: String,
    pub tenant: String,
    pub cluster: String,
    pub submit_s: u64,
    /// All GPUs of the gang; zero for a job that needs none.
    pub gpus: u32,
    pub gpus_per_node: u32,
    /// What will do; empty for any.
    pub gpu_types: Vec<String>,
    pub duration_s: Option<u64>,
    pub cpu_milli: u64,
    pub mem_mib: u64,
    /// Of each GPU; [`WHOLE`] for all of it.
    pub gpu_milli: u32,
}

/// One row of a nodes file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeRow {
    pub line: u64,
    pub name: String,
    pub gpus: u32,
    pub gpu_type: String,
    pub cpu_milli: u64,
    /// Zero if the file does not say.
    pub mem_mib: u64,
    /// What column `in_gpu_node_list` says.
    pub is_listed: Option<bool>,
}

/// Which columns a protocol cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// GPUs, CPU, memory and shares; no times.
    Shapes,
    /// GPUs and times.
    Times,
}

struct JobColumns {
    gpus: Column,
    submit: Option<Column>,
    duration: Option<Column>,
    cpu: Option<Column>,
    mem: Option<Column>,
    milli: Option<Column>,
    per_node: Option<Column>,
    gpu_type: Option<Column>,
    id: Option<Column>,
    tenant: Option<Column>,
    cluster: Option<Column>,
}

impl JobColumns {
    fn of(table: &Table<'_>, needs: Needs) -> Result<Self, ReadError> {
        let when = |needed: bool, name| {
            if needed { table.needed(name).map(Some) } else { Ok(table.column(name)) }
        };
        let (shapes, times) = (needs == Needs::Shapes, needs == Needs::Times);
        Ok(Self {
            gpus: table.needed("gpus")?,
            submit: when(times, "submit_s")?,
            duration: when(times, "duration_s")?,
            cpu: when(shapes, "cpu_milli")?,
            mem: when(shapes, "mem_mib")?,
            milli: when(shapes, "gpu_milli")?,
            per_node: table.column("gpus_per_node"),
            gpu_type: table.column("gpu_type"),
            id: table.column("job_id"),
            tenant: table.column("tenant"),
            cluster: table.column("cluster"),
        })
    }
}

/// Reads a jobs file.
///
/// # Errors
/// The first thing in the file that cannot be used.
pub fn read_jobs(
    path: &Path,
    needs: Needs,
    progress: &mut dyn Progress,
) -> Result<Vec<JobRow>, ReadError> {
    let mut table = Table::open(path, progress)?;
    let columns = JobColumns::of(&table, needs)?;
    let mut jobs = Vec::new();
    while table.advance()? {
        jobs.push(job(&table, &columns, needs)?);
    }
    if jobs.is_empty() {
        return Err(table.no_rows());
    }
    Ok(jobs)
}

fn job(table: &Table<'_>, columns: &JobColumns, needs: Needs) -> Result<JobRow, ReadError> {
    let gpus = table.bounded(columns.gpus, 0, GPUS_MAX)?;
    let milli = match columns.milli {
        Some(column) if !table.text(Some(column)).is_empty() => table.bounded(column, 0, WHOLE)?,
        Some(_) | None => WHOLE,
    };
    let required = |column: Option<Column>| match column {
        Some(column) if needs == Needs::Times => table.number(column).map(Some),
        other => table.maybe_number(other),
    };
    let shape = |column: Option<Column>| match column {
        Some(column) if needs == Needs::Shapes => table.number(column),
        other => Ok(table.maybe_number(other)?.unwrap_or(0)),
    };
    let per_node = match columns.per_node {
        Some(column) if !table.text(Some(column)).is_empty() => {
            table.bounded(column, 0, GPUS_MAX)?
        }
        Some(_) | None => 0,
    };
    if gpus > 0 && milli == 0 {
        return Err(table.row_fault("a job with GPUs has `gpu_milli` 0"));
    }
    let types = table.text(columns.gpu_type).split('|').map(str::trim);
    Ok(JobRow {
        line: table.line(),
        id: table.text(columns.id).to_owned(),
        tenant: table.text(columns.tenant).to_owned(),
        cluster: table.text(columns.cluster).to_owned(),
        submit_s: required(columns.submit)?.unwrap_or(0),
        gpus,
        gpus_per_node: per_node,
        gpu_types: types.filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        duration_s: table.maybe_number(columns.duration)?,
        cpu_milli: shape(columns.cpu)?,
        mem_mib: shape(columns.mem)?,
        gpu_milli: if gpus == 0 { 0 } else { milli },
    })
}

/// Reads a nodes file.
///
/// # Errors
/// The first thing in the file that cannot be used.
pub fn read_nodes(path: &Path, progress: &mut dyn Progress) -> Result<Vec<NodeRow>, ReadError> {
    let mut table = Table::open(path, progress)?;
    let gpus = table.needed("gpus")?;
    let cpu = table.needed("cpu_milli")?;
    let (name, gpu_type) = (table.column("node"), table.column("gpu_type"));
    let (mem, listed) = (table.column("mem_mib"), table.column("in_gpu_node_list"));
    let mut nodes = Vec::new();
    while table.advance()? {
        let is_listed = match table.text(listed) {
            "" => None,
            "1" => Some(true),
            "0" => Some(false),
            other => {
                let reason = format!("column `in_gpu_node_list`: `{other}` is neither 0 nor 1");
                return Err(table.row_fault(reason));
            }
        };
        nodes.push(NodeRow {
            line: table.line(),
            name: table.text(name).to_owned(),
            gpus: table.bounded(gpus, 0, GPUS_MAX)?,
            gpu_type: table.text(gpu_type).to_owned(),
            cpu_milli: table.number(cpu)?,
            mem_mib: table.maybe_number(mem)?.unwrap_or(0),
            is_listed,
        });
    }
    if nodes.is_empty() {
        return Err(table.no_rows());
    }
    Ok(nodes)
}
