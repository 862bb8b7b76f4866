//! What an expression says of a message (`ComparisonExpression` and its kin).
//!
//! Each property is a text, and a missing one is NULL. A text that is compared with a number is read as a number of that
//! very type; one that does not fit makes the whole expression unfit, and the message is not wanted.

use std::cmp::Ordering;

use crate::types::Properties;

use super::expression::{Constant, Expression, Op, TextOp};

/// A property's text is not what it is compared with.
struct Unfit;

type Result<T> = std::result::Result<T, Unfit>;
/// True, false or unknown.
type Truth = Option<bool>;

#[derive(Clone, Copy)]
enum Value<'a> {
    Text(&'a str),
    Integer(i32),
    Long(i64),
    Double(f64),
    Boolean(bool),
    Null,
}

pub fn is_true(expression: &Expression, properties: &Properties) -> bool {
    matches!(truth(expression, properties), Ok(Some(true)))
}

fn truth(expression: &Expression, of: &Properties) -> Result<Truth> {
    Ok(match expression {
        Expression::Constant(Constant::Boolean(constant)) => Some(*constant),
        // No property is a boolean.
        Expression::Property(name) => of.get(name).map(|_| false),
        Expression::Constant(_) | Expression::Negative(_) => None,
        Expression::Not(inner) => truth(inner, of)?.map(|truth| !truth),
        Expression::And(parts) => all(parts, of, false)?,
        Expression::Or(parts) => all(parts, of, true)?,
        Expression::Compare { left, op, right } => compare(value(left, of)?, *op, value(right, of)?)?,
        Expression::IsNull { value: inner, not } => Some(matches!(value(inner, of)?, Value::Null) != *not),
        Expression::Between { value: inner, not, low, high } => {
            let (inner, low) = (value(inner, of)?, value(low, of)?);
            let (below, above) = if *not { (Op::Less, Op::Greater) } else { (Op::GreaterOrEqual, Op::LessOrEqual) };
            match compare(inner, below, low)? {
                Some(decided) if decided == *not => Some(decided),
                first => both(first, compare(inner, above, value(high, of)?)?, *not),
            }
        }
        Expression::In { property, not, list } => {
            of.get(property).map(|text| list.iter().any(|listed| **listed == *text) != *not)
        }
        Expression::Text { value: inner, not, op, search } => match value(inner, of)? {
            Value::Text(text) if !search.is_empty() => Some(op.holds(text, search) != *not),
            _ => Some(false),
        },
    })
}

/// AND, whose verdict one `false` decides; OR, whose verdict one `true` decides.
fn all(parts: &[Expression], of: &Properties, decisive: bool) -> Result<Truth> {
    let mut result = Some(!decisive);
    for part in parts {
        let part = truth(part, of)?;
        if part == Some(decisive) {
            return Ok(part);
        }
        result = both(result, part, decisive);
    }
    Ok(result)
}

fn both(left: Truth, right: Truth, decisive: bool) -> Truth {
    if left == Some(decisive) || right == Some(decisive) {
        return Some(decisive);
    }
    left.and(right)
}

fn value<'a>(expression: &'a Expression, of: &'a Properties) -> Result<Value<'a>> {
    Ok(match expression {
        Expression::Constant(constant) => match constant {
            Constant::Text(text) => Value::Text(text),
            Constant::Integer(n) => Value::Integer(*n),
            Constant::Long(n) => Value::Long(*n),
            Constant::Double(n) => Value::Double(*n),
            Constant::Boolean(truth) => Value::Boolean(*truth),
            Constant::Null => Value::Null,
        },
        Expression::Property(name) => of.get(name).map_or(Value::Null, Value::Text),
        // Of constants the parser has taken the negative already, and no property is a number.
        Expression::Negative(inner) => {
            value(inner, of)?;
            Value::Null
        }
        _ => truth(expression, of)?.map_or(Value::Null, Value::Boolean),
    })
}

fn compare(left: Value<'_>, op: Op, right: Value<'_>) -> Result<Truth> {
    match op {
        Op::Equal => equal(left, right),
        Op::NotEqual => Ok(equal(left, right)?.map(|equal| !equal)),
        Op::Less | Op::LessOrEqual | Op::Greater | Op::GreaterOrEqual => {
            if matches!(left, Value::Null) || matches!(right, Value::Null) {
                return Ok(None);
            }
            let order = match (left, right) {
                // Two properties.
                (Value::Text(left), Value::Text(right)) => Some(double_order(double(left)?, double(right)?)),
                _ => order(left, right)?,
            };
            Ok(Some(order.is_some_and(|order| match op {
                Op::Less => order.is_lt(),
                Op::LessOrEqual => order.is_le(),
                Op::Greater => order.is_gt(),
                _ => order.is_ge(),
            })))
        }
    }
}

fn equal(left: Value<'_>, right: Value<'_>) -> Result<Truth> {
    match (left, right) {
        (Value::Null, Value::Null) => Ok(Some(true)),
        (Value::Null, _) => Ok(None),
        (_, Value::Null) => Ok(Some(false)),
        (left, right) => Ok(Some(order(left, right)?.is_some_and(Ordering::is_eq))),
    }
}

/// How two values that are not NULL stand to each other; `None` when they have nothing in common.
fn order(left: Value<'_>, right: Value<'_>) -> Result<Option<Ordering>> {
    use Value::{Boolean, Double, Integer, Long, Text};
    Ok(Some(match (left, right) {
        (Text(left), Text(right)) => left.cmp(right),
        (Text(left), Integer(right)) => left.parse::<i32>().map_err(|_| Unfit)?.cmp(&right),
        (Text(left), Long(right)) => left.parse::<i64>().map_err(|_| Unfit)?.cmp(&right),
        (Text(left), Double(right)) => double_order(double(left)?, right),
        (Text(left), Boolean(right)) => left.eq_ignore_ascii_case("true").cmp(&right),
        (Integer(_) | Long(_) | Double(_), Text(_)) => return Ok(order(right, left)?.map(Ordering::reverse)),
        (Integer(left), Integer(right)) => left.cmp(&right),
        (Integer(left), Long(right)) => i64::from(left).cmp(&right),
        (Long(left), Integer(right)) => left.cmp(&i64::from(right)),
        (Long(left), Long(right)) => left.cmp(&right),
        (Integer(left), Double(right)) => double_order(f64::from(left), right),
        (Double(left), Integer(right)) => double_order(left, f64::from(right)),
        (Long(left), Double(right)) => double_order(left as f64, right),
        (Double(left), Long(right)) => double_order(left, right as f64),
        (Double(left), Double(right)) => double_order(left, right),
        (Boolean(left), Boolean(right)) => left.cmp(&right),
        (Boolean(_) | Value::Null, _) | (_, Boolean(_) | Value::Null) => return Ok(None),
    }))
}

/// Java's order: -0 before 0, and one NaN behind everything.
fn double_order(left: f64, right: f64) -> Ordering {
    let one_nan = |n: f64| if n.is_nan() { f64::NAN.abs() } else { n };
    one_nan(left).total_cmp(&one_nan(right))
}

/// Reads what Java's `Double.valueOf` reads, but for hexadecimal numbers.
fn double(text: &str) -> Result<f64> {
    let text = text.trim_matches(|c| c <= ' ');
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, "NaN" | "Infinity") {
        return text.parse().map_err(|_| Unfit);
    }
    let digits = text.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(text);
    if digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) {
        digits.parse().map_err(|_| Unfit)
    } else {
        Err(Unfit)
    }
}

impl TextOp {
    fn holds(self, text: &str, search: &str) -> bool {
        match self {
            Self::Contains => text.contains(search),
            Self::StartsWith => text.starts_with(search),
            Self::EndsWith => text.ends_with(search),
        }
    }
}
