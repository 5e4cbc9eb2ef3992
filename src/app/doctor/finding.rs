//! What a check came to, and all of them together. Plain data; the names in JSON are promised in
//! `docs/doctor.md`.

use serde::Serialize;

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it has to be.
    Good,
    /// An installation does not work so.
    Bad,
    /// It works, with something that should be known; or it cannot be told how it stands.
    Note,
}

impl Verdict {
    /// As people read it.
    pub fn sign(self) -> char {
        match self {
            Self::Good => '✓',
            Self::Bad => '✗',
            Self::Note => '!',
        }
    }
}

/// What one check came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check; one word that stays.
    pub check: &'static str,
    /// Which Xray, inbound or file it is about, where there are several.
    pub about: Option<String>,
    /// How that stands.
    pub verdict: Verdict,
    /// In a sentence.
    pub what: String,
    /// What mends it: a line in plain words, and lines to paste.
    pub mend: Vec<String>,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, what: impl Into<String>) -> Self {
        Self {
            check,
            about: None,
            verdict,
            what: what.into(),
            mend: Vec::new(),
        }
    }

    pub(super) fn good(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Verdict::Good, what)
    }

    pub(super) fn bad(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Verdict::Bad, what)
    }

    pub(super) fn note(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Verdict::Note, what)
    }

    /// About this.
    pub(super) fn about(mut self, about: impl Into<String>) -> Self {
        self.about = Some(about.into());
        self
    }

    /// With one more line of what mends it.
    pub(super) fn mend(mut self, line: impl Into<String>) -> Self {
        self.mend.push(line.into());
        self
    }

    /// With more lines of what mends it.
    pub(super) fn mends(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.mend.extend(lines);
        self
    }
}

/// Everything that was found, in the order of the checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Each finding.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many have that verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        let with = |finding: &&Finding| finding.verdict == verdict;
        self.findings.iter().filter(with).count()
    }

    /// Whether nothing is bad.
    pub fn is_good(&self) -> bool {
        self.count(Verdict::Bad) == 0
    }
}

impl From<Vec<Finding>> for Report {
    fn from(findings: Vec<Finding>) -> Self {
        Self { findings }
    }
}
