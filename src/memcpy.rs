//! `memcpy` and `memmove` of the static binary. Calls in Rust and C code become these two names, and the linker takes them
//! from here before it looks into musl.
//!
//! musl's `memcpy` is one `rep movsq` whatever the length, which the processor takes 10 to 20 ns to begin; the copies of a
//! send or a poll are many and mostly shorter than 200 bytes. With these the static binary is as fast as the one with
//! glibc. `rep` begins to pay from [`REP_MIN`] bytes on. Only SSE2, which every x86-64 has: nothing is looked up at the
//! start.
//!
//! Assembly, since a compiler may well turn a loop that copies into a call of `memcpy`. The arguments come in `rdi` (to),
//! `rsi` (from) and `rdx` (bytes), `to` is the result in `rax`, and of the registers used none is the caller's (System V
//! ABI for AMD64, 3.2).

#![expect(unsafe_code, reason = "the C library's contract is raw pointers")]

use std::arch::naked_asm;

/// Bytes from which on `rep movsq` is at least as fast as a loop of 64 bytes.
const REP_MIN: usize = 2048;

/// Copies, also within one buffer. Up to 128 bytes everything is loaded before anything is stored, in pieces from both
/// ends that overlap in the middle.
///
/// # Safety
/// As C's `memmove`: `len` bytes at `from` can be read, and at `to` be written.
#[cfg_attr(target_env = "musl", unsafe(export_name = "memcpy"))]
#[unsafe(naked)]
unsafe extern "C" fn copy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "cmp rdx, 128",
        "ja {large}",
        "cmp edx, 32",
        "ja 6f",
        "cmp edx, 16",
        "jae 5f",
        "cmp edx, 8",
        "jae 4f",
        "cmp edx, 4",
        "jae 3f",
        "test edx, edx",
        "jz 2f",
        "mov ecx, edx", // 1 to 3: the first, the middle and the last
        "shr ecx, 1",
        "movzx r8d, byte ptr [rsi]",
        "movzx r9d, byte ptr [rsi + rcx]",
        "movzx r10d, byte ptr [rsi + rdx - 1]",
        "mov byte ptr [rdi], r8b",
        "mov byte ptr [rdi + rcx], r9b",
        "mov byte ptr [rdi + rdx - 1], r10b",
        "2: ret",
        "3: mov ecx, dword ptr [rsi]", // 4 to 7
        "mov r8d, dword ptr [rsi + rdx - 4]",
        "mov dword ptr [rdi], ecx",
        "mov dword ptr [rdi + rdx - 4], r8d",
        "ret",
        "4: mov rcx, qword ptr [rsi]", // 8 to 15
        "mov r8, qword ptr [rsi + rdx - 8]",
        "mov qword ptr [rdi], rcx",
        "mov qword ptr [rdi + rdx - 8], r8",
        "ret",
        "5: movups xmm0, [rsi]", // 16 to 32
        "movups xmm1, [rsi + rdx - 16]",
        "movups [rdi], xmm0",
        "movups [rdi + rdx - 16], xmm1",
        "ret",
        "6: movups xmm0, [rsi]", // 33 to 128
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + rdx - 32]",
        "movups xmm3, [rsi + rdx - 16]",
        "cmp edx, 64",
        "jbe 7f",
        "movups xmm4, [rsi + 32]",
        "movups xmm5, [rsi + 48]",
        "movups xmm6, [rsi + rdx - 64]",
        "movups xmm7, [rsi + rdx - 48]",
        "movups [rdi + 32], xmm4",
        "movups [rdi + 48], xmm5",
        "movups [rdi + rdx - 64], xmm6",
        "movups [rdi + rdx - 48], xmm7",
        "7: movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + rdx - 32], xmm2",
        "movups [rdi + rdx - 16], xmm3",
        "ret",
        large = sym copy_large,
    )
}

/// More than 128 bytes. Between two ranges that lie apart: the first 16 bytes, then 64 at a time to aligned places, then
/// the last 64.
#[unsafe(naked)]
unsafe extern "C" fn copy_large(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    naked_asm!(
        "mov rcx, rdi",
        "sub rcx, rsi",
        "cmp rcx, rdx",
        "jb {backwards}", // `to` lies within the range that is read
        "neg rcx",
        "cmp rcx, rdx",
        "jb {forwards}", // `from` lies within the range that is written
        "lea r8, [rdi + rdx - 64]",
        "lea r9, [rsi + rdx - 64]",
        "movups xmm0, [rsi]",
        "movups [rdi], xmm0",
        "mov rcx, rdi", // 1 to 16 on, to the next multiple of 16
        "and rcx, 15",
        "sub rcx, 16",
        "sub rsi, rcx",
        "sub rdi, rcx",
        "cmp rdx, {rep_min}",
        "jae 3f",
        ".p2align 4",
        "2: movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + 32]",
        "movups xmm3, [rsi + 48]",
        "movaps [rdi], xmm0",
        "movaps [rdi + 16], xmm1",
        "movaps [rdi + 32], xmm2",
        "movaps [rdi + 48], xmm3",
        "add rsi, 64",
        "add rdi, 64",
        "cmp rdi, r8",
        "jb 2b",
        "jmp 4f",
        "3: lea rcx, [r8 + 7]", // up to where the last 64 begin, in words
        "sub rcx, rdi",
        "shr rcx, 3",
        "rep movsq",
        "4: movups xmm0, [r9]",
        "movups xmm1, [r9 + 16]",
        "movups xmm2, [r9 + 32]",
        "movups xmm3, [r9 + 48]",
        "movups [r8], xmm0",
        "movups [r8 + 16], xmm1",
        "movups [r8 + 32], xmm2",
        "movups [r8 + 48], xmm3",
        "ret",
        backwards = sym copy_backwards,
        forwards = sym copy_forwards,
        rep_min = const REP_MIN,
    )
}

/// More than 128 bytes to a place within them, the last 64 first; what begins the range is loaded before it is written to.
#[unsafe(naked)]
unsafe extern "C" fn copy_backwards(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    naked_asm!(
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + 32]",
        "movups xmm3, [rsi + 48]",
        "sub rdx, 64",
        "2: movups xmm4, [rsi + rdx]",
        "movups xmm5, [rsi + rdx + 16]",
        "movups xmm6, [rsi + rdx + 32]",
        "movups xmm7, [rsi + rdx + 48]",
        "movups [rdi + rdx], xmm4",
        "movups [rdi + rdx + 16], xmm5",
        "movups [rdi + rdx + 32], xmm6",
        "movups [rdi + rdx + 48], xmm7",
        "sub rdx, 64",
        "ja 2b",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + 32], xmm2",
        "movups [rdi + 48], xmm3",
        "ret",
    )
}

/// More than 128 bytes from a place within where they go, the first 64 first; what ends the range is loaded before it is
/// written to.
#[unsafe(naked)]
unsafe extern "C" fn copy_forwards(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    naked_asm!(
        "movups xmm0, [rsi + rdx - 64]",
        "movups xmm1, [rsi + rdx - 48]",
        "movups xmm2, [rsi + rdx - 32]",
        "movups xmm3, [rsi + rdx - 16]",
        "lea r8, [rdi + rdx - 64]",
        "2: movups xmm4, [rsi]",
        "movups xmm5, [rsi + 16]",
        "movups xmm6, [rsi + 32]",
        "movups xmm7, [rsi + 48]",
        "movups [rdi], xmm4",
        "movups [rdi + 16], xmm5",
        "movups [rdi + 32], xmm6",
        "movups [rdi + 48], xmm7",
        "add rsi, 64",
        "add rdi, 64",
        "cmp rdi, r8",
        "jb 2b",
        "movups [r8], xmm0",
        "movups [r8 + 16], xmm1",
        "movups [r8 + 32], xmm2",
        "movups [r8 + 48], xmm3",
        "ret",
    )
}

/// musl's own would bring musl's `memcpy` in beside ours.
#[cfg(target_env = "musl")]
#[unsafe(export_name = "memmove")]
#[unsafe(naked)]
unsafe extern "C" fn copy_within(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    naked_asm!("jmp {copy}", copy = sym copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every path's lengths, with one more and one fewer.
    fn lengths() -> impl Iterator<Item = usize> {
        (0..=400).chain([1023, 1024, 1025, REP_MIN - 1, REP_MIN, REP_MIN + 1, 3 * REP_MIN + 7])
    }

    /// Copies within a buffer, and compares all of it with what a copy byte by byte leaves.
    fn check(len: usize, from: usize, to: usize) {
        const MARGIN: usize = 160;
        let mut bytes: Vec<u8> = (0..from.max(to) + len + MARGIN).map(|i| (i * 31 + i / 251) as u8).collect();
        let mut expected = bytes.clone();
        let taken = bytes[from..from + len].to_vec();
        for (i, byte) in taken.into_iter().enumerate() {
            expected[to + i] = byte;
        }
        let base = bytes.as_mut_ptr();
        // SAFETY: both ranges lie in the buffer.
        let result = unsafe { copy(base.add(to), base.add(from), len) };
        assert_eq!(result, base.wrapping_add(to));
        assert!(bytes == expected, "{len} bytes from {from} to {to}");
    }

    #[test]
    fn bytes_are_copied_whatever_their_number_and_their_places() {
        for len in lengths() {
            for shift in 0..=16 {
                check(len, 160 + shift, 160 + len + 7 * shift);
                check(len, 160 + len + 7 * shift, 160 + shift);
            }
        }
    }

    #[test]
    fn ranges_that_overlap_are_copied_as_if_they_did_not() {
        for len in lengths() {
            for distance in (0..=130).chain([len / 2, len.saturating_sub(1)]) {
                check(len, 160, 160 + distance);
                check(len, 160 + distance, 160);
            }
        }
    }
}
