//! SQL92 filters, as RocketMQ has them (its `filter` module: the grammar `SelectorParser.jj` and the expressions behind
//! it).
//!
//! ```text
//! or         = and { OR and }
//! and        = equality { AND equality }
//! equality   = comparison { ( "=" | "<>" ) comparison | IS [ NOT ] NULL }
//! comparison = unary { ( ">" | ">=" | "<" | "<=" ) unary | [ NOT ] BETWEEN unary AND unary
//!            | [ NOT ] IN "(" text { "," text } ")" | [ NOT ] ( CONTAINS | STARTSWITH | ENDSWITH ) text }
//! unary      = ( "+" | "-" | NOT ) unary | constant | property | "(" or ")"
//! ```
//!
//! Key words in any case; names of properties as they are written; comments `-- ...` and `/* ... */`. There is no
//! arithmetic, no LIKE, no `!=` and no function. Prefix NOT binds tighter than a comparison: `NOT (a = 'x')` wants its
//! parentheses.
//!
//! Unlike Apache's parser, ours takes nothing behind a complete expression.

mod eval;
mod expression;
mod lexer;
mod parser;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::types::Properties;

use expression::Expression;

/// How deep an expression may be nested. Chains of AND or OR count as one level however long they are.
pub const DEPTH_MAX: usize = 32;

/// A parsed expression, and the text that it came from. Two are equal when their texts are.
pub struct Sql {
    text: Box<str>,
    root: Expression,
}

/// What is wrong with an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {problem}")]
pub struct SqlError {
    /// In characters, the first is 1.
    pub column: usize,
    pub problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("expected {expected}, found {found}")]
    Expected { expected: &'static str, found: String },
    #[error("the character {0:?} has no place in an expression")]
    Character(char),
    #[error("the text has no closing quote; a quote within a text is written twice")]
    OpenText,
    #[error("the comment has no end; close it with */")]
    OpenComment,
    #[error("the number {0} does not fit 64 bits")]
    TooLarge(String),
    #[error("a decimal number must be greater than zero and finite; write 0 for zero, and -1.5 for less")]
    Decimal,
    #[error("{operand} cannot be ordered; > >= < <= and BETWEEN compare numbers and properties")]
    NotOrdered { operand: &'static str },
    #[error("NULL cannot be compared; use IS NULL or IS NOT NULL")]
    NullCompared,
    #[error("TRUE and FALSE can be compared with a property only")]
    BooleanCompared,
    #[error("this is {0}, where something true or false is needed")]
    NotBoolean(&'static str),
    #[error("the left side of IN must be the name of a property")]
    InOfNoProperty,
    #[error("the lower bound of BETWEEN is above the upper one")]
    BoundsSwapped,
    #[error("it is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
}

impl Sql {
    /// Reads an expression.
    pub fn parse(text: &str) -> Result<Self, SqlError> {
        Ok(Self { text: text.into(), root: parser::parse(text)? })
    }

    /// Whether a message with these properties is wanted: only what is true, neither false nor unknown.
    pub fn matches(&self, properties: &Properties) -> bool {
        eval::is_true(&self.root, properties)
    }
}

impl PartialEq for Sql {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Sql {}

impl fmt::Debug for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sql({})", self.root)
    }
}
