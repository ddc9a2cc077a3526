# ruff: noqa: E501 (XLA writes long lines)
"""Compiled modules small enough to count by hand, in the words of XLA:TPU."""

# Four devices in two rows of two. One layer: a weight is gathered in its row, multiplied, the
# result's gradient is summed over the row and cut (which XLA:TPU keeps as a fusion), a scalar is
# summed over all.
STEP = """\
HloModule jit_step, is_scheduled=true, num_partitions=4

FileNames
1 "step.py"

%add (x: f32[], y: f32[]) -> f32[] {
  %y = f32[]{:T(256)} parameter(1)
  %x = f32[]{:T(256)} parameter(0)
  ROOT %sum = f32[]{:T(256)} add(%x, %y)
}

%fused_product (a: bf16[8,256,512], w: bf16[512,1024]) -> bf16[8,256,1024] {
  %a = bf16[8,256,512]{2,1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[512,1024]{1,0:T(8,128)(2,1)} parameter(1)
  %kernel = bf16[512,1024,1]{1,0,2:T(8,128)(2,1)} bitcast(%w)
  ROOT %y = bf16[8,256,1024]{2,1,0} convolution(%a, %kernel), window={size=1}, dim_labels=0bf_io0->0bf
}

%fused_gradient (a: bf16[8,256,512], dy: bf16[8,256,1024]) -> bf16[512,1024] {
  %a.1 = bf16[8,256,512]{2,1,0:T(8,128)(2,1)} parameter(0)
  %dy = bf16[8,256,1024]{2,1,0:T(8,128)(2,1)} parameter(1)
  %dw = bf16[512,1024,1]{1,0,2} convolution(%a.1, %dy), window={size=8}, dim_labels=0fb_0io->bf0
  ROOT %dw.2 = bf16[512,1024]{1,0} bitcast(%dw)
}

%all-reduce-scatter (input: bf16[512,1024]) -> bf16[256,1024] {
  %input = bf16[512,1024]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.1 = bf16[512,1024]{1,0} all-reduce(%input), channel_id=3, replica_groups={{0,1},{2,3}}, use_global_device_ids=true, to_apply=%add
  %zero = u32[] constant(0)
  ROOT %mine = bf16[256,1024]{1,0} dynamic-slice(%all-reduce.1, %zero, %zero), dynamic_slice_sizes={256,1024}
}

ENTRY %main (p0: bf16[256,1024], p1: bf16[8,256,512]) -> (bf16[256,1024], f32[]) {
  %p0 = bf16[256,1024]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="w (a, b)"}
  %p1 = bf16[8,256,512]{2,1,0:T(8,128)(2,1)} parameter(1)
  %all-gather = bf16[512,1024]{1,0:T(8,128)(2,1)} all-gather(%p0), channel_id=1, replica_groups=mesh['a'=2,'b'=2] {'b'}, dimensions={0}
  %y.1 = bf16[8,256,1024]{2,1,0:T(8,128)(2,1)} fusion(%p1, %all-gather), kind=kOutput, calls=%fused_product, backend_config={"window_config":{"estimated_cycles":"1000"}}
  %near = bf16[8,256,1024]{2,1,0:T(8,128)(2,1)S(1)} negate(%y.1), backend_config={"window_config":{"estimated_cycles":"900"}}
  %custom = (bf16[8,256,1024]{2,1,0:T(8,128)}, u32[]{:S(2)}) custom-call(%near), custom_call_target="Other", frontend_attributes={kernel_metadata={
"over":"several lines"
}}, backend_config={"custom_call_config":{"body":"abc="}}
  %dw.1 = bf16[512,1024]{1,0:T(8,128)(2,1)} fusion(%p1, %near), kind=kOutput, calls=%fused_gradient, backend_config={"window_config":{"estimated_cycles":"1500"}}
  %cut = bf16[256,1024]{1,0:T(8,128)(2,1)} fusion(%dw.1), kind=kCustom, calls=%all-reduce-scatter
  %one = f32[]{:T(128)} constant(1)
  %total = f32[]{:T(128)} all-reduce(%one), channel_id=4, replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %result = (bf16[256,1024]{1,0}, f32[]) tuple(%cut, %total)
}
"""

# A loop of 12 rounds, each with a product and a permutation that is waited for elsewhere; and a
# loop of which nobody can say how often it runs.
LOOPS = """\
HloModule jit_loop, num_partitions=4

%condition (state: (s32[], f32[128,128])) -> pred[] {
  %state = (s32[], f32[128,128]{1,0}) parameter(0)
  %limit = s32[] constant(12)
  %i = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%body (state: (s32[], f32[128,128])) -> (s32[], f32[128,128]) {
  %state.1 = (s32[], f32[128,128]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %x = f32[128,128]{1,0} get-tuple-element(%state.1), index=1
  %send = (f32[128,128]{1,0}, f32[128,128]{1,0}, u32[], u32[]) collective-permute-start(%x), channel_id=1, source_target_pairs={{0,1},{1,2},{2,3}}
  %y = f32[128,128]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}, backend_config={"estimated_cycles":"10"}
  %got = f32[128,128]{1,0} collective-permute-done(%send)
  ROOT %next = (s32[], f32[128,128]{1,0}) tuple(%i.1, %y)
}

%forever (state: (s32[], f32[128,128])) -> pred[] {
  %state.2 = (s32[], f32[128,128]{1,0}) parameter(0)
  %i.2 = s32[] get-tuple-element(%state.2), index=0
  %bound = s32[] get-tuple-element(%state.2), index=0
  ROOT %less.1 = pred[] compare(%i.2, %bound), direction=LT
}

ENTRY %main (p: (s32[], f32[128,128])) -> (s32[], f32[128,128]) {
  %p = (s32[], f32[128,128]{1,0}) parameter(0)
  %known = (s32[], f32[128,128]{1,0}) while(%p), condition=%condition, body=%body
  ROOT %unknown = (s32[], f32[128,128]{1,0}) while(%known), condition=%forever, body=%body
}
"""
