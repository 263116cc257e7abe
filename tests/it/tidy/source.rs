//! Sizes and unfinished work: file length, function length, markers, silenced lints, unsafe code.

use super::scan::{Language, closing, code_only, identifiers, line_of};
use super::{Complaints, hold};

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;
const SOURCES: [&str; 7] = [".rs", ".js", ".mjs", ".py", ".css", ".html", ".sh"];
/// Batched sends and receives, a cipher of instructions that not every processor has, and three numbers for the C library's
/// allocator; nothing else needs it. An allocator that counts for the benches is unsafe by its trait.
const UNSAFE_ALLOWED: [&str; 5] = [
    "relayd/src/heap.rs",
    "relayd/src/webrtc/egress/linux.rs",
    "relayd/src/webrtc/receiver/linux.rs",
    "relayd/src/webrtc/srtp/wide.rs",
    "benches/src/allocations.rs",
];

fn file_length(path: &str, text: &str) -> Complaints {
    let lines = text.lines().count();
    if lines > FILE_LINES { vec![format!("{path}: {lines} lines, {FILE_LINES} allowed")] } else { Vec::new() }
}

fn rust_functions(path: &str, text: &str) -> Complaints {
    let code = code_only(text, Language::Rust);
    let mut complaints = Vec::new();
    for (at, _) in identifiers(&code).into_iter().filter(|(_, word)| *word == "fn") {
        let Some(stop) = code[at..].find(['{', ';']).map(|n| at + n) else { continue };
        if code.as_bytes()[stop] == b'{' {
            body_length(path, &code, stop, &mut complaints);
        }
    }
    complaints
}

fn javascript_functions(path: &str, text: &str) -> Complaints {
    let code = code_only(text, Language::JavaScript);
    let mut complaints = Vec::new();
    for (at, _) in code.match_indices('{') {
        let before = code[..at].trim_end();
        if before.ends_with("=>") || (before.ends_with(')') && !is_statement(before)) {
            body_length(path, &code, at, &mut complaints);
        }
    }
    complaints
}

/// Whether the parenthesis that ends here belongs to `if`, `for` and the like.
fn is_statement(before: &str) -> bool {
    let mut depth = 0_usize;
    for (i, byte) in before.bytes().enumerate().rev() {
        depth = if byte == b')' { depth + 1 } else { depth };
        depth = if byte == b'(' { depth - 1 } else { depth };
        if depth == 0 {
            let head = before[..i].trim_end();
            let word = head.rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            return ["if", "for", "while", "switch", "catch", "await"].contains(&word);
        }
    }
    false
}

/// Counts what the linter counts: the lines of code between the brackets.
fn body_length(path: &str, code: &str, open: usize, complaints: &mut Complaints) {
    let Some(end) = closing(code, open) else { return };
    let lines = code[open + 1..end - 1].lines().filter(|line| !line.trim().is_empty()).count();
    if lines > FUNCTION_LINES {
        let line = line_of(code, open);
        complaints.push(format!("{path}:{line}: a function of {lines} lines, {FUNCTION_LINES} allowed"));
    }
}

fn python_functions(path: &str, text: &str) -> Complaints {
    let lines: Vec<&str> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut complaints = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let head = line.trim_start();
        if !head.starts_with("def ") && !head.starts_with("async def ") {
            continue;
        }
        let inside = |next: &&&str| {
            next.trim().is_empty() || indent(next) > indent(line) || next.trim_start().starts_with(')')
        };
        let body = lines[i + 1..].iter().take_while(inside).filter(|next| !next.trim().is_empty()).count();
        if body > FUNCTION_LINES {
            complaints
                .push(format!("{path}:{}: a function of {body} lines, {FUNCTION_LINES} allowed", i + 1));
        }
    }
    complaints
}

fn unfinished(path: &str, text: &str) -> Complaints {
    let mut complaints = Vec::new();
    for marker in [concat!("FIX", "ME"), concat!("X", "XX:")] {
        if text.contains(marker) {
            complaints.push(format!("{path}: says {marker}: finish it or say what it does not do"));
        }
    }
    if !path.ends_with(".rs") {
        return complaints;
    }
    let code = code_only(text, Language::Rust);
    for macro_name in ["todo!", "unimplemented!", "dbg!", "#[ignore"] {
        for (at, _) in code.match_indices(macro_name) {
            complaints.push(format!("{path}:{}: {macro_name}", line_of(&code, at)));
        }
    }
    for opening in ["#[allow(", "#![allow("] {
        for (at, _) in code.match_indices(opening) {
            let end = closing(&code, at + opening.len() - 1).unwrap_or(code.len());
            if !code[at..end].contains("reason") {
                complaints
                    .push(format!("{path}:{}: a lint is silenced without a reason", line_of(&code, at)));
            }
        }
    }
    complaints
}

fn unsafe_code(path: &str, text: &str) -> Complaints {
    let code = code_only(text, Language::Rust);
    let blocks: Vec<usize> =
        identifiers(&code).into_iter().filter(|(_, word)| *word == "unsafe").map(|(at, _)| at).collect();
    let allowed = UNSAFE_ALLOWED.contains(&path);
    let mut complaints = Complaints::new();
    for at in blocks {
        let line = line_of(&code, at);
        let reasoned =
            text.lines().take(line).skip(line.saturating_sub(8)).any(|near| near.contains("SAFETY:"));
        if !allowed {
            complaints.push(format!("{path}:{line}: unsafe outside {UNSAFE_ALLOWED:?}"));
        } else if !reasoned {
            complaints.push(format!("{path}:{line}: unsafe without its SAFETY comment"));
        }
    }
    complaints
}

#[test]
fn files_are_short() {
    hold(&SOURCES, file_length);
    assert_eq!(file_length("long.rs", &"x\n".repeat(601)).len(), 1);
    assert!(file_length("fits.rs", &"x\n".repeat(600)).is_empty());
}

#[test]
fn rust_functions_are_short() {
    hold(&[".rs"], rust_functions);
    let sample =
        |lines: usize| format!("fn f<'a>(s: &'a str) {{\n{}}}\nfn g() {{}}\n", "    s; // {\n".repeat(lines));
    assert_eq!(rust_functions("long.rs", &sample(71)).len(), 1);
    assert!(rust_functions("fits.rs", &sample(70)).is_empty());
}

#[test]
fn javascript_functions_are_short() {
    hold(&[".js", ".mjs"], javascript_functions);
    let body = "  x('{', /}/);\n".repeat(71);
    assert_eq!(javascript_functions("named.js", &format!("async function f(a, b) {{\n{body}}}")).len(), 1);
    assert_eq!(javascript_functions("arrow.js", &format!("const f = (a) => {{\n{body}}};")).len(), 1);
    assert_eq!(javascript_functions("method.js", &format!("class A {{\n  f() {{\n{body}  }}\n}}")).len(), 1);
    assert!(javascript_functions("statement.js", &format!("if (a(b)) {{\n{body}}}")).is_empty());
}

#[test]
fn python_functions_are_short() {
    hold(&[".py"], python_functions);
    let sample = |lines: usize| {
        format!("async def f(\n    a,\n):\n{}\n\ndef g():\n    pass\n", "    a()\n".repeat(lines))
    };
    assert_eq!(python_functions("long.py", &sample(71)).len(), 1);
    assert!(python_functions("fits.py", &sample(68)).is_empty());
}

#[test]
fn nothing_is_left_unfinished_or_silenced() {
    hold(&SOURCES, unfinished);
    for bad in [
        concat!("// FIX", "ME later"),
        "fn f() { todo!() }",
        "fn f() { unimplemented!() }",
        "#[ignore = \"slow\"] fn f() {}",
        "#[allow(dead_code)] fn f() {}",
        "#![allow(clippy::all)]",
    ] {
        assert_eq!(unfinished("bad.rs", bad).len(), 1, "{bad}");
    }
    assert!(
        unfinished("good.rs", "#[allow(dead_code, reason = \"why\")] fn f() { g(\"todo!\") }").is_empty()
    );
}

#[test]
fn unsafe_code_has_one_home_and_a_reason() {
    hold(&[".rs"], unsafe_code);
    assert_eq!(unsafe_code("engine/src/relay.rs", "fn f() { unsafe { g() } }").len(), 1);
    assert_eq!(unsafe_code(UNSAFE_ALLOWED[0], "fn f() { unsafe { g() } }").len(), 1);
    assert!(unsafe_code(UNSAFE_ALLOWED[0], "// SAFETY: it holds.\nunsafe { g() }").is_empty());
    assert!(unsafe_code("engine/src/lib.rs", "#![deny(unsafe_code)] // no unsafe").is_empty());
}
