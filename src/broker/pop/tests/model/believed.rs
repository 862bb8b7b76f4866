//! What may be so about one message.

use super::ATTEMPTS;
use crate::broker::Receipt;

/// What the log may say last about a message. Times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Nothing,
    /// The next attempt, not before `at`.
    Retry {
        attempt: u32,
        at: u64,
    },
    Done,
    Dead,
}

/// One receipt that a consumer got.
#[derive(Debug)]
pub struct Handle {
    pub receipt: Receipt,
    pub run: u32,
    /// End of the lease that its text names.
    pub promised: u64,
    pub acked: bool,
    pub void: Void,
}

/// Whether a reset has made a receipt void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Void {
    No,
    Perhaps,
    Yes,
}

impl Handle {
    pub fn new(receipt: Receipt, run: u32, promised: u64) -> Self {
        Self { receipt, run, promised, acked: false, void: Void::No }
    }
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    until: u64,
    attempt: u32,
    /// The log knows already what comes when it ends, as the consumer wants it.
    recorded: bool,
    /// The log knows that it was delivered.
    logged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Ok,
    Refusal,
    Either,
}

#[derive(Debug)]
pub struct Believed {
    /// The send was answered: it must be there.
    exists: bool,
    /// What the log may say; while `sure`, the server acts on the last, and a crash may fall back to any.
    said: Vec<Said>,
    pub sure: bool,
    lease: Option<Lease>,
    /// A lease was open when the last run ended.
    was_live: bool,
    /// The lease on record that an earlier run left, if any since the newest handle.
    held: Option<Lease>,
    /// Copies in the dead-letter topic from before resets, at least and at most.
    buried: (usize, usize),
    pub handles: Vec<Handle>,
    /// It is held by a receipt of an earlier run.
    pub held_over: bool,
    /// When its last attempt was over.
    died: Option<u64>,
}

impl Believed {
    pub fn new(exists: bool) -> Self {
        let said = vec![Said::Nothing];
        Self {
            exists,
            said,
            sure: true,
            lease: None,
            was_live: false,
            held: None,
            buried: (0, 0),
            handles: Vec::new(),
            held_over: false,
            died: None,
        }
    }

    fn last(&self) -> Said {
        *self.said.last().expect("never empty")
    }
    fn is_over(&self) -> bool {
        let over = |said: &Said| matches!(said, Said::Done | Said::Dead);
        if self.sure { over(&self.last()) } else { self.said.iter().all(over) }
    }
    fn is(&self, said: Said, attempt: u32, now: u64) -> bool {
        match said {
            Said::Nothing => attempt == 1,
            Said::Retry { attempt: next, at, .. } => attempt == next && at <= now,
            Said::Done | Said::Dead => false,
        }
    }

    /// `logged`: deliveries are on record.
    pub fn deliver(&mut self, attempt: u32, handle: Handle, now: u64, logged: bool) -> Result<(), &'static str> {
        if attempt > ATTEMPTS {
            return Err("one attempt too many");
        }
        if self.lease.is_some() {
            return Err("it is in flight");
        }
        let fits = |said: &Said| self.is(*said, attempt, now);
        let Some(found) = self.said.iter().copied().rfind(fits) else { return Err("not this attempt, not now") };
        if self.sure && self.last() != found {
            return Err("the server knew better");
        }
        if !self.sure {
            self.said = vec![found];
            self.sure = true;
        }
        self.exists = true;
        self.held_over = false;
        let until = handle.promised;
        self.lease = Some(Lease { until, attempt, recorded: false, logged });
        if logged {
            self.say(Said::Retry { attempt: attempt + 1, at: until });
        }
        self.handles.push(handle);
        self.held = None;
        Ok(())
    }

    /// Whether it should have come by now. A wait that a restart has restored may be two milliseconds longer.
    pub fn is_overdue(&self, now: u64) -> bool {
        let visible = |said: &Said| match *said {
            Said::Nothing => true,
            Said::Retry { attempt, at } => attempt <= ATTEMPTS && at + 2 <= now,
            Said::Done | Said::Dead => false,
        };
        let expected = if self.sure { visible(&self.last()) } else { self.said.iter().all(visible) };
        self.exists && self.lease.is_none() && expected
    }

    /// Surely neither done nor dead-lettered.
    pub fn is_undone(&self) -> bool {
        let over = |said: &Said| matches!(said, Said::Done | Said::Dead);
        let undone = if self.sure { !self.is_over() } else { !self.said.iter().any(over) };
        self.exists && (self.is_in_flight() || undone)
    }

    /// Since its group was last reset.
    pub fn has_come(&self) -> bool {
        self.handles.iter().any(|handle| handle.void == Void::No)
    }

    pub fn is_in_flight(&self) -> bool {
        self.lease.is_some()
    }

    /// Perhaps it still holds its message group. A wait that a restart has restored may be two milliseconds longer, also
    /// that for the dead-letter topic.
    pub fn may_hold(&self, now: u64) -> bool {
        !(self.sure && self.is_over() && self.died.is_none_or(|died| died + 2 < now))
    }

    /// Nobody saw the delivery, and the server was told so.
    pub fn given_back(&mut self, now: u64) {
        if let Some(Lease { attempt, recorded: false, logged, .. }) = self.lease {
            self.lease = None;
            if logged {
                self.say(Said::Retry { attempt, at: now });
            }
        }
    }

    /// Perhaps it was delivered, and nobody knows.
    pub fn maybe_delivered(&mut self, until: u64) {
        let next = match self.last() {
            _ if self.lease.is_some() || self.is_over() => return,
            Said::Retry { attempt, .. } => attempt + 1,
            _ => 2,
        };
        self.say(Said::Retry { attempt: next, at: until });
        self.sure = false;
    }

    pub fn is_live(&self, index: usize, run: u32, now: u64) -> bool {
        let newest = index + 1 == self.handles.len() && self.handles[index].run == run;
        newest && !self.is_over() && self.lease.is_some_and(|lease| now < lease.until)
    }

    /// The answer to an ack.
    pub fn expect(&self, index: usize, run: u32, now: u64) -> Answer {
        let handle = &self.handles[index];
        let open = now < handle.promised;
        if handle.void == Void::Yes {
            return Answer::Refusal;
        }
        if self.is_over() {
            return match (open, handle.acked && handle.void == Void::No) {
                (true, true) => Answer::Ok,
                (true, false) => Answer::Either,
                (false, _) => Answer::Refusal,
            };
        }
        self.expect_change(index, run, now)
    }

    /// The answer to a change of the invisible time.
    pub fn expect_change(&self, index: usize, run: u32, now: u64) -> Answer {
        let handle = &self.handles[index];
        let newest = index + 1 == self.handles.len();
        if self.is_over() || handle.void == Void::Yes {
            return Answer::Refusal;
        }
        if handle.run == run {
            return if self.is_live(index, run, now) { Answer::Ok } else { Answer::Refusal };
        }
        let delivered_since = self.handles.last().is_some_and(|last| last.run == run);
        let was_live = self.was_live && handle.void == Void::No;
        // An older one could settle what somebody else has.
        let held = self.held.filter(|lease| now < lease.until + 2);
        if held.is_some() && self.sure && !newest {
            return Answer::Refusal;
        }
        let renewed = held.filter(|_| newest);
        let open = now < handle.promised || renewed.is_some();
        let surely = now < handle.promised || renewed.is_some_and(|lease| now < lease.until);
        match (open && !delivered_since, self.sure && newest && was_live && surely) {
            (false, _) => Answer::Refusal,
            (true, true) => Answer::Ok,
            (true, false) => Answer::Either,
        }
    }

    fn say(&mut self, said: Said) {
        self.said.push(said);
    }

    pub fn acked(&mut self, index: usize) {
        self.handles[index].acked = true;
        if !self.sure && self.said.contains(&Said::Dead) {
            // Either it is done now, or the crash left it dead and the handle was told that it is over.
            self.said = vec![Said::Dead, Said::Done];
        } else if !self.is_over() {
            self.said = vec![Said::Done];
            self.sure = true;
        }
        self.lease = None;
    }

    /// Done, and the record is on its way.
    pub fn done_soon(&mut self) {
        if !self.is_over() {
            self.say(Said::Done);
            self.sure = true;
            self.lease = None;
        }
    }

    /// Perhaps done.
    pub fn maybe_done(&mut self) {
        if !self.is_over() {
            self.say(Said::Done);
            self.sure = false;
        }
    }

    pub fn changed(&mut self, attempt: u32, handle: Handle, now: u64, until: u64) {
        self.said = vec![Said::Retry { attempt: attempt + 1, at: until }];
        self.sure = true;
        self.lease = (until > now).then_some(Lease { until, attempt, recorded: true, logged: false });
        self.held = None;
        self.handles.push(handle);
    }

    pub fn maybe_changed(&mut self, attempt: u32, until: u64) {
        self.say(Said::Retry { attempt: attempt + 1, at: until });
    }

    pub fn renewed(&mut self, until: u64) {
        let Some(lease) = &mut self.lease else { return };
        lease.until = until;
        if lease.recorded || lease.logged {
            let attempt = lease.attempt + 1;
            self.say(Said::Retry { attempt, at: until });
        }
    }

    pub fn dead(&mut self) {
        if !self.is_over() {
            self.say(Said::Dead);
            self.lease = None;
        }
    }

    /// Its group goes on elsewhere, and this is what is so from now on.
    pub fn reset(&mut self, said: Said) {
        let dead = |said: &Said| *said == Said::Dead;
        self.buried.0 += usize::from(if self.sure { dead(&self.last()) } else { self.said.iter().all(dead) });
        self.buried.1 += usize::from(if self.sure { dead(&self.last()) } else { self.said.iter().any(dead) });
        self.said = vec![said];
        (self.sure, self.exists, self.lease, self.was_live) = (true, true, None, false);
        self.held = None;
        (self.held_over, self.died) = (false, None);
        self.handles.iter_mut().for_each(|handle| handle.void = Void::Yes);
    }

    /// Perhaps.
    pub fn maybe_reset(&mut self, said: Said) {
        self.buried.1 += usize::from(self.said.contains(&Said::Dead));
        self.say(said);
        self.sure = false;
        let open = self.handles.iter_mut().filter(|handle| handle.void == Void::No);
        open.for_each(|handle| handle.void = Void::Perhaps);
    }

    pub fn revive(&mut self, now: u64) {
        if let Some(lease) = self.lease.filter(|lease| lease.until <= now) {
            self.lease = None;
            if !lease.recorded {
                self.say(Said::Retry { attempt: lease.attempt + 1, at: lease.until });
            }
        }
        let doomed = |said: &Said| matches!(said, Said::Retry { attempt, at, .. } if *attempt > ATTEMPTS && *at <= now);
        let dies = if self.sure { self.lease.is_none() && doomed(&self.last()) } else { self.said.iter().any(doomed) };
        if dies {
            self.died.get_or_insert(now);
            self.say(Said::Dead);
        }
    }

    /// Everything that the server has said so far is durable.
    pub fn safe(&mut self) {
        if self.sure {
            self.said = vec![self.last()];
        }
    }

    /// The run ended; what was not safe may be gone, what was in flight is not any more.
    pub fn crash(&mut self) {
        let lease = self.lease.take();
        self.was_live = lease.is_some();
        self.held = lease.filter(|lease| lease.logged).or(self.held);
        self.sure &= self.said.len() == 1;
    }

    /// At the end, with so many copies in the dead-letter topic.
    pub fn ends_well(&self, copies: usize) -> bool {
        let (least, most) = self.buried;
        match self.last() {
            _ if !self.exists => copies <= most + 1,
            Said::Done if self.sure => (least..=most).contains(&copies),
            Said::Dead if self.sure => (least + 1..=most + 1).contains(&copies),
            // Nobody asked for it any more, or the log decided; it is not both.
            _ => !self.sure && (least..=most + 1).contains(&copies),
        }
    }
}
