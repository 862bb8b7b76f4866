//! Tokens to a tree, by recursive descent. What Apache's parser refuses is refused here, so that a mistake is told when a
//! consumer starts and not found in what it never gets.

use super::{
    DEPTH_MAX, Problem, SqlError,
    expression::{Constant, Expression, Op, TextOp},
    lexer::{Kind, Lexer, Token},
};

/// Parentheses and prefixes within each other: each level of the tree can have one of both.
const NESTING_MAX: usize = 2 * DEPTH_MAX;

const VALUE: &str = "a property, a constant or (";

/// A part of the tree on its way up.
struct Part {
    expression: Expression,
    /// Where it begins, in bytes.
    at: usize,
    /// Levels of the tree.
    height: usize,
}

type Result<T> = std::result::Result<T, SqlError>;

/// Reads a whole expression.
pub fn parse(text: &str) -> Result<Expression> {
    let mut lexer = Lexer::new(text);
    let token = lexer.next()?;
    let mut parser = Parser { lexer, token, nesting: 0 };
    let whole = parser.or()?;
    if parser.token.kind != Kind::End {
        return Err(parser.unexpected("AND, OR, a comparison or the end"));
    }
    Ok(parser.boolean(whole)?.expression)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The next one.
    token: Token<'a>,
    nesting: usize,
}

impl<'a> Parser<'a> {
    fn advance(&mut self) -> Result<Token<'a>> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    /// Takes the next token if it is this one.
    fn take(&mut self, kind: &Kind<'_>) -> Result<bool> {
        let is = self.token.kind == *kind;
        if is {
            self.advance()?;
        }
        Ok(is)
    }

    fn expect(&mut self, kind: &Kind<'_>, expected: &'static str) -> Result<()> {
        if self.take(kind)? { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    fn unexpected(&self, expected: &'static str) -> SqlError {
        let found = self.token.kind.shown();
        self.lexer.error(self.token.at, Problem::Expected { expected, found })
    }

    fn refuse<T>(&self, at: usize, problem: Problem) -> Result<T> {
        Err(self.lexer.error(at, problem))
    }

    /// One level above its parts.
    fn above(&self, at: usize, below: usize, expression: Expression) -> Result<Part> {
        if below >= DEPTH_MAX {
            return self.refuse(at, Problem::TooDeep);
        }
        Ok(Part { expression, at, height: below + 1 })
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.nesting >= NESTING_MAX {
            return self.refuse(self.token.at, Problem::TooDeep);
        }
        self.nesting += 1;
        let parsed = parse(self);
        self.nesting -= 1;
        parsed
    }

    fn boolean(&self, part: Part) -> Result<Part> {
        match part.expression.not_boolean() {
            Some(what) => self.refuse(part.at, Problem::NotBoolean(what)),
            None => Ok(part),
        }
    }

    fn or(&mut self) -> Result<Part> {
        self.chain(&Kind::Or, Self::and, Expression::Or)
    }

    fn and(&mut self) -> Result<Part> {
        self.chain(&Kind::And, Self::equality, Expression::And)
    }

    /// Parts joined by a word; one alone is itself.
    fn chain(
        &mut self,
        word: &Kind<'_>,
        part: impl Fn(&mut Self) -> Result<Part>,
        join: impl FnOnce(Vec<Expression>) -> Expression,
    ) -> Result<Part> {
        let first = part(self)?;
        if self.token.kind != *word {
            return Ok(first);
        }
        let Part { expression, at, mut height } = self.boolean(first)?;
        let mut parts = vec![expression];
        while self.take(word)? {
            let next = part(self)?;
            let next = self.boolean(next)?;
            height = height.max(next.height);
            parts.push(next.expression);
        }
        self.above(at, height, join(parts))
    }

    fn equality(&mut self) -> Result<Part> {
        let mut left = self.comparison()?;
        loop {
            left = match self.token.kind {
                Kind::Compare(op @ (Op::Equal | Op::NotEqual)) => {
                    self.advance()?;
                    let right = self.comparison()?;
                    self.may_be_equal(&left, &right)?;
                    self.compare(left, op, right)?
                }
                Kind::Is => {
                    self.advance()?;
                    let not = self.take(&Kind::Not)?;
                    self.expect(&Kind::Constant(Constant::Null), "NULL or NOT NULL")?;
                    let Part { expression, at, height } = left;
                    self.above(at, height, Expression::IsNull { value: Box::new(expression), not })?
                }
                _ => return Ok(left),
            };
        }
    }

    fn may_be_equal(&self, left: &Part, right: &Part) -> Result<()> {
        for side in [left, right] {
            if side.expression == Expression::Constant(Constant::Null) {
                return self.refuse(side.at, Problem::NullCompared);
            }
        }
        match (&left.expression, &right.expression) {
            (Expression::Constant(Constant::Boolean(_)), Expression::Constant(Constant::Boolean(_))) => Ok(()),
            (Expression::Constant(Constant::Boolean(_)), Expression::Constant(_)) => {
                self.refuse(left.at, Problem::BooleanCompared)
            }
            _ => Ok(()),
        }
    }

    fn compare(&self, left: Part, op: Op, right: Part) -> Result<Part> {
        let (at, below) = (left.at, left.height.max(right.height));
        let (left, right) = (Box::new(left.expression), Box::new(right.expression));
        self.above(at, below, Expression::Compare { left, op, right })
    }

    fn comparison(&mut self) -> Result<Part> {
        let mut left = self.unary()?;
        loop {
            if let Kind::Compare(op @ (Op::Less | Op::LessOrEqual | Op::Greater | Op::GreaterOrEqual)) = self.token.kind
            {
                self.advance()?;
                let right = self.unary()?;
                self.ordered(&left)?;
                self.ordered(&right)?;
                left = self.compare(left, op, right)?;
                continue;
            }
            let not = self.take(&Kind::Not)?;
            left = match self.token.kind {
                Kind::Between => self.between(left, not)?,
                Kind::In => self.within(left, not)?,
                Kind::Text(op) => self.text(left, not, op)?,
                _ if not => return Err(self.unexpected("BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH after NOT")),
                _ => return Ok(left),
            };
        }
    }

    fn ordered(&self, part: &Part) -> Result<()> {
        match part.expression.not_ordered() {
            Some(operand) => self.refuse(part.at, Problem::NotOrdered { operand }),
            None => Ok(()),
        }
    }

    fn between(&mut self, value: Part, not: bool) -> Result<Part> {
        self.advance()?;
        let low = self.unary()?;
        self.expect(&Kind::And, "AND between the bounds of BETWEEN")?;
        let high = self.unary()?;
        for part in [&value, &low, &high] {
            self.ordered(part)?;
        }
        if let (Expression::Constant(low), Expression::Constant(high_constant)) = (&low.expression, &high.expression)
            && low.is_above(high_constant)
        {
            return self.refuse(high.at, Problem::BoundsSwapped);
        }
        let (at, below) = (value.at, value.height.max(low.height).max(high.height));
        let [value, low, high] = [value, low, high].map(|part| Box::new(part.expression));
        self.above(at, below, Expression::Between { value, not, low, high })
    }

    fn within(&mut self, value: Part, not: bool) -> Result<Part> {
        self.advance()?;
        let Expression::Property(property) = value.expression else {
            return self.refuse(value.at, Problem::InOfNoProperty);
        };
        self.expect(&Kind::Open, "( after IN")?;
        let mut list = vec![self.text_constant()?];
        while self.take(&Kind::Comma)? {
            list.push(self.text_constant()?);
        }
        self.expect(&Kind::Close, "a comma or ) in the list of IN")?;
        self.above(value.at, value.height, Expression::In { property, not, list })
    }

    fn text(&mut self, value: Part, not: bool, op: TextOp) -> Result<Part> {
        self.advance()?;
        let search = self.text_constant()?;
        let Part { expression, at, height } = value;
        self.above(at, height, Expression::Text { value: Box::new(expression), not, op, search })
    }

    fn text_constant(&mut self) -> Result<Box<str>> {
        match self.token.kind {
            Kind::Constant(Constant::Text(_)) => match self.advance()?.kind {
                Kind::Constant(Constant::Text(text)) => Ok(text),
                _ => Err(self.unexpected("a text in single quotes")),
            },
            _ => Err(self.unexpected("a text in single quotes")),
        }
    }

    fn unary(&mut self) -> Result<Part> {
        let at = self.token.at;
        match self.token.kind {
            Kind::Plus => {
                self.advance()?;
                Ok(Part { at, ..self.nested(Self::unary)? })
            }
            Kind::Minus => {
                self.advance()?;
                let Part { expression, height, .. } = self.nested(Self::unary)?;
                match expression {
                    Expression::Constant(constant) if constant.is_number() => {
                        Ok(Part { expression: Expression::Constant(constant.negative()), at, height })
                    }
                    other => self.above(at, height, Expression::Negative(Box::new(other))),
                }
            }
            Kind::Not => {
                self.advance()?;
                let inner = self.nested(Self::unary)?;
                let Part { expression, height, .. } = self.boolean(inner)?;
                self.above(at, height, Expression::Not(Box::new(expression)))
            }
            _ => self.primary(),
        }
    }

    fn primary(&mut self) -> Result<Part> {
        let Token { at, kind } = self.token.clone();
        let expression = match kind {
            Kind::Constant(constant) => Expression::Constant(constant),
            Kind::Name(name) => Expression::Property(name.into()),
            Kind::Open => {
                self.advance()?;
                let inner = self.nested(Self::or)?;
                self.expect(&Kind::Close, "AND, OR, a comparison or )")?;
                return Ok(Part { at, ..inner });
            }
            _ => return Err(self.unexpected(VALUE)),
        };
        self.advance()?;
        Ok(Part { expression, at, height: 1 })
    }
}

impl Constant {
    fn is_number(&self) -> bool {
        matches!(self, Self::Integer(_) | Self::Long(_) | Self::Double(_))
    }

    /// The number with its other sign. Numbers are read without one, so that none overflows.
    fn negative(self) -> Self {
        match self {
            Self::Integer(n) => Self::Integer(n.wrapping_neg()),
            Self::Long(n) => Self::Long(n.wrapping_neg()),
            Self::Double(n) => Self::Double(-n),
            other => other,
        }
    }

    /// Whether both are numbers and this is the larger.
    fn is_above(&self, other: &Self) -> bool {
        match (self.whole(), other.whole()) {
            (Some(left), Some(right)) => left > right,
            _ => self.as_double().zip(other.as_double()).is_some_and(|(left, right)| left > right),
        }
    }

    fn whole(&self) -> Option<i64> {
        match *self {
            Self::Integer(n) => Some(n.into()),
            Self::Long(n) => Some(n),
            _ => None,
        }
    }

    fn as_double(&self) -> Option<f64> {
        match *self {
            Self::Double(n) => Some(n),
            _ => self.whole().map(|n| n as f64),
        }
    }
}
