//! Blanks out comments and literals, so that the rules see only code.
//!
//! A scanner, not a parser: it knows just enough of Rust and JavaScript to tell code from text.
//! Newlines survive, so line numbers hold.

/// Which language's literals to expect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Rust,
    JavaScript,
}

/// The source with every comment and literal replaced by spaces, of the same line count.
pub(super) fn code_only(source: &str, language: Language) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut kept = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at, language, &kept);
        if end == at {
            kept.push(chars[at]);
            at += 1;
        } else {
            kept.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    kept
}

/// Where the comment or literal that begins here ends; `at` itself if none begins here.
fn literal_end(chars: &[char], at: usize, language: Language, kept: &str) -> usize {
    let next = chars.get(at + 1).copied().unwrap_or(' ');
    match (chars[at], next) {
        ('/', '/') => chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |n| at + n),
        ('/', '*') => block_comment_end(chars, at, language),
        ('"', _) => quoted_end(chars, at, '"'),
        ('r', '"' | '#') if language == Language::Rust && !continues_a_word(kept) => raw_end(chars, at),
        ('\'', _) if language == Language::Rust => char_end(chars, at),
        ('\'' | '`', _) if language == Language::JavaScript => quoted_end(chars, at, chars[at]),
        ('/', _) if language == Language::JavaScript && expects_a_value(kept) => quoted_end(chars, at, '/'),
        _ => at,
    }
}

fn continues_a_word(kept: &str) -> bool {
    kept.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_') && !kept.ends_with(['b', 'c'])
        || kept.ends_with('#')
}

/// In JavaScript a slash after an operator or an opening bracket begins a regular expression.
fn expects_a_value(kept: &str) -> bool {
    kept.trim_end().chars().next_back().is_none_or(|c| "(,=:[!&|?{};+>".contains(c))
}

fn block_comment_end(chars: &[char], at: usize, language: Language) -> usize {
    let mut depth = 0_usize;
    let mut i = at;
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') if depth == 0 || language == Language::Rust => {
                depth += 1;
                i += 2;
            }
            ('*', '/') => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    chars.len()
}

fn quoted_end(chars: &[char], at: usize, quote: char) -> usize {
    let mut i = at + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            c if c == quote => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

fn raw_end(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return at; // a raw identifier
    }
    let mut i = at + 2 + hashes;
    while i < chars.len() {
        let closing =
            chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
        if closing {
            return i + 1 + hashes;
        }
        i += 1;
    }
    chars.len()
}

/// A lifetime is code; a character literal is text.
fn char_end(chars: &[char], at: usize) -> usize {
    match chars.get(at + 1) {
        Some('\\') => chars[at + 3..].iter().position(|c| *c == '\'').map_or(chars.len(), |n| at + 4 + n),
        Some(_) if chars.get(at + 2) == Some(&'\'') => at + 3,
        _ => at,
    }
}

/// The index just past the bracket that closes the one at `open`, in text without literals.
pub(super) fn closing(code: &str, open: usize) -> Option<usize> {
    let bytes = code.as_bytes();
    let (up, down) = match bytes[open] {
        b'{' => (b'{', b'}'),
        b'(' => (b'(', b')'),
        _ => (b'[', b']'),
    };
    let mut depth = 0_usize;
    for (i, byte) in bytes.iter().enumerate().skip(open) {
        if *byte == up {
            depth += 1;
        } else if *byte == down {
            depth -= 1;
            if depth == 0 {
                return Some(i + 1);
            }
        }
    }
    None
}

/// The line, from 1, of a byte offset.
pub(super) fn line_of(code: &str, offset: usize) -> usize {
    code.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Each identifier or keyword with its offset.
pub(super) fn identifiers(code: &str) -> Vec<(usize, &str)> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut start = None;
    for (i, c) in code.char_indices().chain([(code.len(), ' ')]) {
        match (start, word(c)) {
            (None, true) => start = Some(i),
            (Some(from), false) => {
                found.push((from, &code[from..i]));
                start = None;
            }
            _ => {}
        }
    }
    found
}

#[test]
fn comments_and_literals_are_blanked_and_code_stays() {
    let rust = "let a = 'x'; fn f<'a>(s: &'a str) { g(\"{\\\"\", r#\"}\"#, b\"{\", '\\'', '{') } // {\n/* { /* } */ { */ }";
    let code = code_only(rust, Language::Rust);
    assert_eq!(code.matches('{').count(), 1, "{code}");
    assert_eq!(code.matches('}').count(), 2, "{code}");
    assert!(code.contains("fn f<'a>(s: &'a str)"), "{code}");
    assert_eq!(code.lines().count(), 2);
    let js = "a = b / c; s.replace(/[{'\"]/g, '{'); t = `{${x}`; // {\n{}";
    let code = code_only(js, Language::JavaScript);
    assert_eq!(code.matches('{').count(), 1, "{code}");
    assert!(code.contains("b / c"), "{code}");
}

#[test]
fn brackets_close_where_they_should() {
    let code = "a { b { } c } d";
    assert_eq!(closing(code, 2), Some(13));
    assert_eq!(closing("{ {", 0), None);
    assert_eq!(
        identifiers("a.b_c(d1)").iter().map(|(_, word)| *word).collect::<Vec<_>>(),
        ["a", "b_c", "d1"]
    );
}
