//! Output that may be long and whose reader may leave early (`| head`): written as it comes, and
//! ended without a word when nobody reads on. Any other failure to write is told.

use std::fmt::{self, Display};
use std::io::{self, BufWriter, Write};

use serde::Serialize;

/// Writes a line, if somebody reads it.
pub(super) fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Where lines go. After a failure nothing more is written.
pub(super) struct Out<W: Write> {
    to: BufWriter<W>,
    failed: Option<io::Error>,
}

/// Standard output, held for as long as it is written to.
pub(super) fn stdout() -> Out<io::StdoutLock<'static>> {
    Out::to(io::stdout().lock())
}

impl<W: Write> Out<W> {
    /// Writes to `to`.
    pub(super) fn to(to: W) -> Self {
        Self {
            to: BufWriter::new(to),
            failed: None,
        }
    }

    /// Writes a line; whether it is of use to go on.
    pub(super) fn line(&mut self, line: impl Display) -> bool {
        self.write(|to| writeln!(to, "{line}"))
    }

    /// Writes a value as indented JSON.
    pub(super) fn json(&mut self, value: &impl Serialize) -> bool {
        self.write(|to| {
            serde_json::to_writer_pretty(&mut *to, value)?;
            writeln!(to)
        })
    }

    /// Everything is written; an error, if it was not though somebody reads.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.write(Write::flush);
        match self.failed.take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    fn write(&mut self, how: impl FnOnce(&mut BufWriter<W>) -> io::Result<()>) -> bool {
        if self.failed.is_none() {
            self.failed = how(&mut self.to).err();
        }
        self.failed.is_none()
    }
}

/// A JSON array, an item a line.
pub(super) struct Array<'a, W: Write> {
    out: &'a mut Out<W>,
    is_empty: bool,
}

impl<'a, W: Write> Array<'a, W> {
    /// Begins it.
    pub(super) fn of(out: &'a mut Out<W>) -> Self {
        out.write(|to| write!(to, "["));
        Self {
            out,
            is_empty: true,
        }
    }

    /// Adds an item; whether it is of use to go on.
    pub(super) fn item(&mut self, item: &impl Serialize) -> bool {
        let before = if self.is_empty { "\n" } else { ",\n" };
        self.is_empty = false;
        self.out.write(|to| {
            write!(to, "{before}")?;
            Ok(serde_json::to_writer(to, item)?)
        })
    }

    /// Ends it.
    pub(super) fn end(self) {
        self.out.line(if self.is_empty { "]" } else { "\n]" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(items: &[u8]) -> String {
        let mut bytes = Vec::new();
        let mut out = Out::to(&mut bytes);
        let mut array = Array::of(&mut out);
        assert!(items.iter().all(|item| array.item(item)));
        array.end();
        out.finish().unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_array_is_json_whatever_its_length() {
        for items in [&[][..], &[1], &[1, 2, 3]] {
            let read: Vec<u8> = serde_json::from_str(&array(items)).unwrap();
            assert_eq!(read, items);
        }
        assert_eq!(array(&[1, 2]), "[\n1,\n2\n]\n");
    }

    /// Fails each write in this way.
    struct Fails(io::ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_who_leaves_is_no_failure_and_a_full_disk_is_one() {
        for (kind, is_failure) in [
            (io::ErrorKind::BrokenPipe, false),
            (io::ErrorKind::StorageFull, true),
        ] {
            let mut out = Out::to(Fails(kind));
            let lines = (0..100_000).take_while(|n| out.line(n)).count();
            assert!(lines < 100_000, "it went on writing");
            assert_eq!(out.finish().is_err(), is_failure, "{kind:?}");
        }
        let mut short = Out::to(Fails(io::ErrorKind::StorageFull));
        short.line("one");
        assert!(short.finish().is_err(), "the last lines are written too");
    }
}
