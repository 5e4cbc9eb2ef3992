//! What is wrong with a configuration: all of it at once, each with where, what, and the mend.
//! Nothing here shows the value of a secret: who reports a problem with one does not quote it.

use std::cell::RefCell;
use std::fmt;
use std::path::PathBuf;

/// Where a value comes from, as people find it. Ordered: the file by its lines, then
/// the rest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// The configuration file; `line` from 1, `key` may be empty.
    File {
        path: PathBuf,
        line: Option<usize>,
        key: String,
    },
    /// A variable of the environment.
    Variable(String),
    /// Another file, such as one that holds a token.
    OtherFile(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, key } => {
                write!(f, "{}", path.display())?;
                line.map_or(Ok(()), |line| write!(f, ":{line}"))?;
                if key.is_empty() {
                    Ok(())
                } else {
                    write!(f, ": {key}")
                }
            }
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::OtherFile(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What is wrong with a value and what to do about it, before it is known where the value stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Complaint {
    pub(super) what: String,
    pub(super) mend: String,
}

impl Complaint {
    pub(super) fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            mend: mend.into(),
        }
    }

    pub(super) fn at(self, place: &Place) -> Problem {
        Problem {
            place: place.clone(),
            complaint: self,
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    place: Place,
    complaint: Complaint,
}

impl Problem {
    /// Where: `/etc/xray-agent/config.toml:12: sync.interval`, or `environment NODE_IDS`.
    pub fn place(&self) -> String {
        self.place.to_string()
    }

    /// What is wrong there.
    pub fn what(&self) -> &str {
        &self.complaint.what
    }

    /// What to do about it.
    pub fn mend(&self) -> &str {
        &self.complaint.mend
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}; {}",
            self.place, self.complaint.what, self.complaint.mend
        )
    }
}

/// Everything that is wrong, at least one thing; prints as one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// In order; the same thing found twice is told once.
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort();
        problems.dedup();
        Self(problems)
    }

    /// Each of them, the file's first and by line.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Where readers put what they find wrong, while they read on.
#[derive(Debug, Default)]
pub(super) struct Found(RefCell<Vec<Problem>>);

impl Found {
    pub(super) fn report(&self, place: &Place, complaint: Complaint) {
        self.add(complaint.at(place));
    }

    pub(super) fn add(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    /// `value`, if nothing was found.
    pub(super) fn settle<T>(self, value: T) -> Result<T, Problems> {
        let problems = self.0.into_inner();
        if problems.is_empty() {
            Ok(value)
        } else {
            Err(Problems::new(problems))
        }
    }
}
