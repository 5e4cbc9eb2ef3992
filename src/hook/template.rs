//! From `APPLY_CMD` and its values to the text that a shell runs.
//!
//! Pure. Kept here: a value reaches the hook as itself, byte for byte, or the template is refused;
//! it is never read as shell. A value that a shell takes as it is stands as it is, everywhere, so
//! templates that already quote their placeholders go on working. Any other value is quoted, and
//! that is right only for a word of its own (`{uuids_file}`, `'{uuids_file}'`, `"{uuids_file}"`,
//! `--file={uuids_file}`); inside longer quotes it could be run by the outer shell or an inner one.

use crate::model::ids::NodeId;

/// What the three placeholders stand for.
#[derive(Clone, Copy, Debug)]
pub struct Placeholders<'a> {
    /// `{node_id}`: the panel's number of the node.
    pub node_id: NodeId,
    /// `{uuids_file}`: path of `allowed-uuids.txt`.
    pub uuids_file: &'a str,
    /// `{uuids_json}`: path of `allowed-uuids.json`.
    pub uuids_json: &'a str,
}

/// Why a template cannot take its values.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// No argument of a program can hold a NUL.
    #[error("the value of {{{name}}} holds a NUL byte, which no command can be given")]
    Nul {
        /// The placeholder, without braces.
        name: &'static str,
    },
    /// The value is a path that is not UTF-8.
    #[error("the value of {{{name}}} is not UTF-8 text: choose an OUTPUT_DIR that is")]
    NotText {
        /// The placeholder, without braces.
        name: &'static str,
    },
    /// The value is not plain, and the placeholder stands where quoting it is not safe.
    #[error(
        "the value of {{{name}}} has characters that a shell reads, and in the command (APPLY_CMD) \
         the placeholder stands inside quotes, backquotes, a comment or a here-document, where it \
         cannot be made safe: make {{{name}}} a word of its own, or choose an OUTPUT_DIR of \
         letters, digits and _./- only"
    )]
    NotAWord {
        /// The placeholder, without braces.
        name: &'static str,
    },
}

/// Replaces `{node_id}`, `{uuids_file}` and `{uuids_json}`; other braces stay.
pub fn expand(template: &str, values: &Placeholders<'_>) -> Result<String, TemplateError> {
    let mut shell = Shell::of(template);
    let mut out = String::with_capacity(template.len() + 128);
    let mut rest = template;
    while let Some(c) = rest.chars().next() {
        if let Some((value, length)) = shell.quoted_word(rest, values)? {
            out.push_str(&value);
            rest = &rest[length..];
            shell.after_value();
        } else if let Some(name) = placeholder_at(rest) {
            let (value, plain) = quote(name, values)?;
            if !plain && !shell.is_bare() {
                return Err(TemplateError::NotAWord { name });
            }
            out.push_str(&value);
            rest = &rest[name.len() + 2..];
            shell.after_value();
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            shell.step(c);
        }
    }
    Ok(out)
}

const NAMES: [&str; 3] = ["node_id", "uuids_file", "uuids_json"];

fn placeholder_at(text: &str) -> Option<&'static str> {
    let inner = text.strip_prefix('{')?;
    NAMES.into_iter().find(|name| {
        inner
            .strip_prefix(name)
            .is_some_and(|end| end.starts_with('}'))
    })
}

/// The value as a shell's word, and whether that is the value itself.
fn quote(name: &'static str, values: &Placeholders<'_>) -> Result<(String, bool), TemplateError> {
    let value = match name {
        "node_id" => &values.node_id.to_string(),
        "uuids_file" => values.uuids_file,
        _ => values.uuids_json,
    };
    let word = shlex::try_quote(value).map_err(|_| TemplateError::Nul { name })?;
    let plain = word == value;
    Ok((word.into_owned(), plain))
}

/// Where a place in a shell's text lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Outside of everything, where a word may begin.
    WordStart,
    /// Outside of everything.
    Word,
    Single,
    Double,
    Comment,
}

/// Follows the shell's syntax just far enough to be sure of the places where a quoted word may
/// stand; whatever it does not follow counts as not safe.
#[derive(Debug)]
struct Shell {
    place: Place,
    /// After a backslash.
    escaped: bool,
    /// Something was met whose inside this does not follow.
    lost: bool,
    last: char,
}

impl Shell {
    fn of(template: &str) -> Self {
        // Backquotes, here-documents and bash's `$'…'` have rules of their own.
        let lost = ["`", "<<", "$'"].iter().any(|odd| template.contains(odd));
        Self {
            place: Place::WordStart,
            escaped: false,
            lost,
            last: ' ',
        }
    }

    fn is_bare(&self) -> bool {
        matches!(self.place, Place::WordStart | Place::Word) && !self.escaped && !self.lost
    }

    /// `"{name}"` or `'{name}'` here, with a value that is not plain: the whole is replaced. Gives
    /// the word and the length in bytes of what it replaces.
    fn quoted_word(
        &self,
        text: &str,
        values: &Placeholders<'_>,
    ) -> Result<Option<(String, usize)>, TemplateError> {
        let Some(mark) = text.chars().next().filter(|c| matches!(c, '\'' | '"')) else {
            return Ok(None);
        };
        let Some(name) = placeholder_at(&text[1..]).filter(|_| self.is_bare()) else {
            return Ok(None);
        };
        let length = name.len() + 4;
        let (word, plain) = quote(name, values)?;
        let closed = text[length - 1..].starts_with(mark);
        Ok((closed && !plain).then_some((word, length)))
    }

    fn after_value(&mut self) {
        self.escaped = false;
        self.last = '}';
        if self.place == Place::WordStart {
            self.place = Place::Word;
        }
    }

    fn step(&mut self, c: char) {
        let before = std::mem::replace(&mut self.last, c);
        let escaped = std::mem::take(&mut self.escaped);
        self.place = match (self.place, c) {
            (Place::WordStart, _) if escaped => Place::Word,
            (place, _) if escaped => place,
            (Place::Comment, '\n') => Place::WordStart,
            (Place::Single, '\'') | (Place::Double, '"') => Place::Word,
            (Place::Double, '(' | '{') if before == '$' => {
                // An expansion inside double quotes can open quotes of its own.
                self.lost = true;
                Place::Double
            }
            (place @ (Place::WordStart | Place::Word | Place::Double), '\\') => {
                self.escaped = true;
                place
            }
            (place @ (Place::Single | Place::Double | Place::Comment), _) => place,
            (Place::WordStart, '#') => Place::Comment,
            (_, '\'') => Place::Single,
            (_, '"') => Place::Double,
            (_, c) if c.is_whitespace() || ";&|()".contains(c) => Place::WordStart,
            _ => Place::Word,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn with(file: &str) -> Placeholders<'_> {
        Placeholders {
            node_id: NodeId(7),
            uuids_file: file,
            uuids_json: "/o/n.json",
        }
    }

    /// What the shell itself makes of the value.
    fn printed(template: &str, value: &str) -> Vec<u8> {
        let command = expand(template, &with(value)).unwrap();
        let done = Command::new("/bin/sh")
            .arg("-c")
            .arg(&command)
            .output()
            .unwrap();
        assert!(done.status.success(), "{command:?}: {done:?}");
        assert_eq!(done.stderr, b"", "{command:?}");
        done.stdout
    }

    #[test]
    fn plain_values_stand_as_they_are_and_other_braces_stay() {
        let template =
            r#"sh -c "apply {node_id} '{uuids_file}'" ${HOME} {x} {{uuids_json}} {node_id"#;
        assert_eq!(
            expand(template, &with("/o/n-1_a.txt")).unwrap(),
            r#"sh -c "apply 7 '/o/n-1_a.txt'" ${HOME} {x} {/o/n.json} {node_id"#
        );
    }

    #[test]
    fn a_value_is_not_expanded_again() {
        assert_eq!(
            expand("{uuids_file}", &with("{node_id}")).unwrap(),
            "'{node_id}'"
        );
    }

    #[test]
    fn a_value_with_spaces_works_as_a_word_quoted_or_not() {
        for template in ["printf %s {uuids_file}", "printf %s \"{uuids_file}\""] {
            assert_eq!(printed(template, "/a b/$HOME"), b"/a b/$HOME", "{template}");
        }
        assert_eq!(
            printed("# don't\nprintf %s 'x '--f={uuids_file}", "a b"),
            b"x --f=a b"
        );
        assert_eq!(
            printed("printf %s $(printf %s {uuids_file})", "a;b"),
            b"a;b"
        );
    }

    #[test]
    fn a_value_that_is_not_plain_is_refused_where_quoting_is_not_safe() {
        for template in [
            r#"sh -c "apply {uuids_file}""#,
            "ssh host 'apply {uuids_file}'",
            "echo `cat {uuids_file}`",
            "cat <<E\n{uuids_file}\nE",
            "echo $'{uuids_file}'",
            r#"echo "$(echo "x {uuids_file}")""#,
            r#"echo "${X:-"{uuids_file}"}""#,
            "true # {uuids_file}",
            r"echo \{uuids_file}",
            "echo '{uuids_file}",
        ] {
            let refused = expand(template, &with("a'$(id)\"b"));
            assert_eq!(
                refused,
                Err(TemplateError::NotAWord { name: "uuids_file" }),
                "{template}"
            );
            assert!(expand(template, &with("/plain")).is_ok(), "{template}");
        }
    }

    #[test]
    fn a_nul_is_refused() {
        let refused = expand("x {uuids_file}", &with("a\0b")).unwrap_err();
        assert_eq!(refused, TemplateError::Nul { name: "uuids_file" });
        assert!(refused.to_string().contains("{uuids_file}"), "{refused}");
    }

    #[test]
    fn two_hundred_payloads_are_printed_not_run() {
        let marks = [
            ";", "&", "|", "&&", "||", "\n", "\r\n", "$(", "`", "'", "\"", "\\", "<", ">", "*",
            "?", "[a]", "~", "#", "!", "^", "%", "{a,b}", "=", "\t",
        ];
        let shapes: [fn(&str) -> String; 8] = [
            |m| m.to_owned(),
            |m| format!("{m}touch /tmp/x{m}"),
            |m| format!("a{m}id)"),
            |m| format!("'{m}'id"),
            |m| format!("\"{m}\"$(id)"),
            |m| format!("\\{m}\\"),
            |m| format!("-n {m}"),
            |m| format!("$HOME{m}é\u{a0}"),
        ];
        let payloads: Vec<_> = marks
            .iter()
            .flat_map(|m| shapes.map(|shape| shape(m)))
            .collect();
        assert_eq!(payloads.len(), 200);
        for payload in payloads {
            assert_eq!(
                printed("printf %s {uuids_file}", &payload),
                payload.as_bytes()
            );
            assert_eq!(
                printed("printf %s '{uuids_file}'", &payload),
                payload.as_bytes()
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn whatever_the_value_the_shell_prints_it(
            value in prop_oneof![
                r"[ -~\n\t]{0,40}",
                r#"['"$`\\;&|()\[{}#^!* ]{0,20}"#,
                "[^\0]{0,20}",
            ],
        ) {
            prop_assert_eq!(printed("printf %s {uuids_file}", &value), value.as_bytes());
        }

        #[test]
        fn expanding_never_panics(
            template in r#"(\PC|\{uuids_file\}|['"$({`\\#\n])*"#,
            value in "\\PC{0,9}",
        ) {
            let _ = expand(&template, &with(&value));
        }
    }
}
