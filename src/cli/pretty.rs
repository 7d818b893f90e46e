//! A JSON document laid out for people, with everything in it as it was received: unknown fields, their order, numbers.

/// Lays out one valid JSON document with two spaces per level. Strings are not touched; of a text that isn't JSON
/// comes some text.
pub fn pretty(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    let mut after_opening = false;
    for c in json.chars() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        let closing = matches!(c, '}' | ']');
        if c.is_ascii_whitespace() {
            continue;
        }
        if closing {
            depth = depth.saturating_sub(1);
        }
        // An empty object or array stays on its line.
        if after_opening != closing {
            new_line(&mut out, depth);
        }
        after_opening = false;
        out.push(c);
        match c {
            '"' => in_string = true,
            '{' | '[' => (depth, after_opening) = (depth + 1, true),
            ',' => new_line(&mut out, depth),
            ':' => out.push(' '),
            _ => {}
        }
    }
    out.push('\n');
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laying_out_never_changes_the_document() {
        let json = r#"{"z":1,"a":{"e":{},"l":[],"x":[1,[2.50,-1e9],{"k":null}]},"s":"a\"b{[,:]} \\"}"#;
        let expected = r#"{
  "z": 1,
  "a": {
    "e": {},
    "l": [],
    "x": [
      1,
      [
        2.50,
        -1e9
      ],
      {
        "k": null
      }
    ]
  },
  "s": "a\"b{[,:]} \\"
}
"#;
        assert_eq!(pretty(json), expected);
        assert_eq!(pretty(expected), expected);
        assert_eq!(pretty("[]"), "[]\n");
        assert_eq!(pretty(" \"x\" "), "\"x\"\n");
    }

    #[test]
    fn what_is_no_json_never_panics() {
        for text in ["", "}}}]", "\"", "{[", ",,", "\\"] {
            let _ = pretty(text);
        }
    }
}
