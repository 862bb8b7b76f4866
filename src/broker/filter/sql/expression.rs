//! An expression as a tree, and how it is written.

use std::fmt::{self, Display, Formatter, Write as _};

#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    Constant(Constant),
    /// The property of this name.
    Property(Box<str>),
    Not(Box<Expression>),
    Negative(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Compare {
        left: Box<Expression>,
        op: Op,
        right: Box<Expression>,
    },
    IsNull {
        value: Box<Expression>,
        not: bool,
    },
    Between {
        value: Box<Expression>,
        not: bool,
        low: Box<Expression>,
        high: Box<Expression>,
    },
    In {
        property: Box<str>,
        not: bool,
        list: Vec<Box<str>>,
    },
    Text {
        value: Box<Expression>,
        not: bool,
        op: TextOp,
        search: Box<str>,
    },
}

/// What is written as it is meant. A number's type is the smallest of Java's that holds it, and decides what a property
/// that it is compared with is read as.
#[derive(Clone, Debug, PartialEq)]
pub enum Constant {
    Text(Box<str>),
    Integer(i32),
    Long(i64),
    Double(f64),
    Boolean(bool),
    Null,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextOp {
    Contains,
    StartsWith,
    EndsWith,
}

impl Expression {
    /// What it is in words, unless it is something true or false (a property may be).
    pub fn not_boolean(&self) -> Option<&'static str> {
        match self {
            Self::Constant(Constant::Boolean(_) | Constant::Null) => None,
            Self::Constant(Constant::Text(_)) => Some("a text"),
            Self::Constant(_) | Self::Negative(_) => Some("a number"),
            _ => None,
        }
    }

    /// What it is in words, unless it may be smaller or larger than something.
    pub fn not_ordered(&self) -> Option<&'static str> {
        match self {
            Self::Constant(Constant::Integer(_) | Constant::Long(_) | Constant::Double(_))
            | Self::Property(_)
            | Self::Negative(_) => None,
            Self::Constant(Constant::Text(_)) => Some("a text"),
            Self::Constant(Constant::Null) => Some("NULL"),
            _ => Some("what is true or false"),
        }
    }

    /// Written where a single operand stands.
    fn operand(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(_) | Self::Property(_) => write!(f, "{self}"),
            _ => write!(f, "({self})"),
        }
    }

    fn chain(f: &mut Formatter<'_>, parts: &[Self], word: &str) -> fmt::Result {
        for (n, part) in parts.iter().enumerate() {
            if n > 0 {
                write!(f, " {word} ")?;
            }
            match part {
                Self::And(_) | Self::Or(_) => write!(f, "({part})")?,
                _ => write!(f, "{part}")?,
            }
        }
        Ok(())
    }
}

impl Display for Expression {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let no = |not: &bool| if *not { "NOT " } else { "" };
        match self {
            Self::Constant(constant) => write!(f, "{constant}"),
            Self::Property(name) => f.write_str(name),
            Self::Not(inner) => {
                f.write_str("NOT ")?;
                inner.operand(f)
            }
            Self::Negative(inner) => {
                f.write_str("- ")?;
                inner.operand(f)
            }
            Self::And(parts) => Self::chain(f, parts, "AND"),
            Self::Or(parts) => Self::chain(f, parts, "OR"),
            Self::Compare { left, op, right } => {
                left.operand(f)?;
                write!(f, " {} ", op.symbol())?;
                right.operand(f)
            }
            Self::IsNull { value, not } => {
                value.operand(f)?;
                write!(f, " IS {}NULL", no(not))
            }
            Self::Between { value, not, low, high } => {
                value.operand(f)?;
                write!(f, " {}BETWEEN ", no(not))?;
                low.operand(f)?;
                f.write_str(" AND ")?;
                high.operand(f)
            }
            Self::In { property, not, list } => {
                write!(f, "{property} {}IN (", no(not))?;
                for (n, text) in list.iter().enumerate() {
                    f.write_str(if n > 0 { ", " } else { "" })?;
                    quoted(f, text)?;
                }
                f.write_char(')')
            }
            Self::Text { value, not, op, search } => {
                value.operand(f)?;
                write!(f, " {}{} ", no(not), op.word())?;
                quoted(f, search)
            }
        }
    }
}

impl Display for Constant {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => quoted(f, text),
            Self::Integer(n) => write!(f, "{n}"),
            Self::Long(n) => write!(f, "{n}"),
            // It always has a point or an exponent, so that it is read back as what it is.
            Self::Double(n) => write!(f, "{n:?}"),
            Self::Boolean(true) => f.write_str("TRUE"),
            Self::Boolean(false) => f.write_str("FALSE"),
            Self::Null => f.write_str("NULL"),
        }
    }
}

fn quoted(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    write!(f, "'{}'", text.replace('\'', "''"))
}

impl Op {
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl TextOp {
    pub fn word(self) -> &'static str {
        match self {
            Self::Contains => "CONTAINS",
            Self::StartsWith => "STARTSWITH",
            Self::EndsWith => "ENDSWITH",
        }
    }
}
