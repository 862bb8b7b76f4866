//! Text to tokens.

use super::{
    Problem, SqlError,
    expression::{Constant, Op, TextOp},
};

/// A token and where it begins, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Token<'a> {
    pub at: usize,
    pub kind: Kind<'a>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind<'a> {
    /// A number, a text, TRUE, FALSE or NULL.
    Constant(Constant),
    /// The name of a property.
    Name(&'a str),
    Compare(Op),
    Text(TextOp),
    And,
    Or,
    Not,
    Between,
    In,
    Is,
    Plus,
    Minus,
    Open,
    Close,
    Comma,
    End,
}

impl Kind<'_> {
    /// How an error shows it.
    pub fn shown(&self) -> String {
        let word = match self {
            Self::Constant(constant) => return constant.to_string(),
            Self::Name(name) => name,
            Self::Compare(op) => op.symbol(),
            Self::Text(op) => op.word(),
            Self::And => "AND",
            Self::Or => "OR",
            Self::Not => "NOT",
            Self::Between => "BETWEEN",
            Self::In => "IN",
            Self::Is => "IS",
            Self::Plus => "+",
            Self::Minus => "-",
            Self::Open => "(",
            Self::Close => ")",
            Self::Comma => ",",
            Self::End => "the end",
        };
        word.to_owned()
    }
}

/// Reads one token after the other.
pub struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// An error about what begins at this byte.
    pub fn error(&self, at: usize, problem: Problem) -> SqlError {
        SqlError { column: self.text[..at].chars().count() + 1, problem }
    }

    pub fn next(&mut self) -> Result<Token<'a>, SqlError> {
        self.skip_blanks()?;
        let at = self.at;
        let Some(first) = self.rest().chars().next() else { return Ok(Token { at, kind: Kind::End }) };
        let kind = match first {
            '\'' => self.text_constant(at)?,
            '0'..='9' => self.number(at)?,
            '.' if self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number(at)?,
            c if c.is_ascii_alphabetic() || matches!(c, '_' | '$') => self.word(),
            c => self.symbol().ok_or_else(|| self.error(at, Problem::Character(c)))?,
        };
        Ok(Token { at, kind })
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Blanks and comments.
    fn skip_blanks(&mut self) -> Result<(), SqlError> {
        loop {
            let rest = self.rest().trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
            self.at = self.text.len() - rest.len();
            if rest.starts_with("--") {
                self.at += rest.find(['\n', '\r']).unwrap_or(rest.len());
            } else if let Some(comment) = rest.strip_prefix("/*") {
                let end = comment.find("*/").ok_or_else(|| self.error(self.at, Problem::OpenComment))?;
                self.at += 2 + end + 2;
            } else {
                return Ok(());
            }
        }
    }

    /// Takes what is made of such characters.
    fn take(&mut self, mut is: impl FnMut(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !is(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    fn text_constant(&mut self, at: usize) -> Result<Kind<'a>, SqlError> {
        let mut text = String::new();
        self.at += 1;
        loop {
            text.push_str(self.take(|c| c != '\''));
            if self.rest().is_empty() {
                return Err(self.error(at, Problem::OpenText));
            }
            self.at += 1;
            if !self.rest().starts_with('\'') {
                return Ok(Kind::Constant(Constant::Text(text.into())));
            }
            self.at += 1;
            text.push('\'');
        }
    }

    fn number(&mut self, at: usize) -> Result<Kind<'a>, SqlError> {
        let whole = self.take(|c| c.is_ascii_digit());
        let mut is_double = false;
        if self.rest().starts_with('.') {
            is_double = true;
            self.at += 1;
            self.take(|c| c.is_ascii_digit());
        }
        let exponent = self.rest().strip_prefix(['e', 'E']).map(|rest| rest.trim_start_matches(['+', '-']));
        // More than one sign is no exponent, and the parser will say what it expected instead.
        let length = exponent.map_or(0, |digits| self.rest().len() - digits.len());
        if (1..=2).contains(&length) && exponent.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
            is_double = true;
            self.at += length;
            self.take(|c| c.is_ascii_digit());
        }
        let constant = if is_double { self.double(at)? } else { self.whole(at, whole)? };
        Ok(Kind::Constant(constant))
    }

    fn double(&self, at: usize) -> Result<Constant, SqlError> {
        let parsed = self.text[at..self.at].parse().ok().filter(|n: &f64| *n > 0.0 && n.is_finite());
        parsed.map(Constant::Double).ok_or_else(|| self.error(at, Problem::Decimal))
    }

    fn whole(&mut self, at: usize, digits: &str) -> Result<Constant, SqlError> {
        if digits.len() > 1 && digits.starts_with('0') {
            let found = digits.to_owned();
            return Err(self.error(at, Problem::Expected { expected: "a number without leading zeros", found }));
        }
        if self.rest().starts_with(['l', 'L']) {
            self.at += 1;
        }
        let number: i64 = digits.parse().map_err(|_| self.error(at, Problem::TooLarge(digits.to_owned())))?;
        Ok(i32::try_from(number).map_or(Constant::Long(number), Constant::Integer))
    }

    fn word(&mut self) -> Kind<'a> {
        let word = self.take(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$'));
        let keywords = [
            ("AND", Kind::And),
            ("OR", Kind::Or),
            ("NOT", Kind::Not),
            ("BETWEEN", Kind::Between),
            ("IN", Kind::In),
            ("IS", Kind::Is),
            ("CONTAINS", Kind::Text(TextOp::Contains)),
            ("STARTSWITH", Kind::Text(TextOp::StartsWith)),
            ("ENDSWITH", Kind::Text(TextOp::EndsWith)),
            ("TRUE", Kind::Constant(Constant::Boolean(true))),
            ("FALSE", Kind::Constant(Constant::Boolean(false))),
            ("NULL", Kind::Constant(Constant::Null)),
        ];
        let keyword = keywords.into_iter().find(|(keyword, _)| keyword.eq_ignore_ascii_case(word));
        keyword.map_or(Kind::Name(word), |(_, kind)| kind)
    }

    fn symbol(&mut self) -> Option<Kind<'a>> {
        // The longer ones first.
        let symbols = [
            ("<>", Kind::Compare(Op::NotEqual)),
            ("<=", Kind::Compare(Op::LessOrEqual)),
            (">=", Kind::Compare(Op::GreaterOrEqual)),
            ("<", Kind::Compare(Op::Less)),
            (">", Kind::Compare(Op::Greater)),
            ("=", Kind::Compare(Op::Equal)),
            ("+", Kind::Plus),
            ("-", Kind::Minus),
            ("(", Kind::Open),
            (")", Kind::Close),
            (",", Kind::Comma),
        ];
        let (symbol, kind) = symbols.into_iter().find(|(symbol, _)| self.rest().starts_with(symbol))?;
        self.at += symbol.len();
        Some(kind)
    }
}
