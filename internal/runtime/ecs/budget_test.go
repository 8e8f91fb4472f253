package ecs

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBudget_ChangesCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(4)
		var calls atomic.Int64
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		for range 5 { // who asks as much as the budget lets
			go func() {
				for b.wait(ctx) == nil {
					calls.Add(1)
				}
			}()
		}
		for range 600 { // two changes a second
			b.take()
			calls.Add(1)
			time.Sleep(500 * time.Millisecond)
		}
		cancel()
		synctest.Wait()
		require.LessOrEqual(t, float64(calls.Load())/300, 4.3, "changes and questions together")
		require.GreaterOrEqual(t, float64(calls.Load())/300, 3.7)
	})
}

func TestBudget_QuestionsAreNotStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(4)
		b.tooMany()
		b.tooMany() // one call a second is left
		var questions atomic.Int64
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		for range 5 {
			go func() {
				for b.wait(ctx) == nil {
					questions.Add(1)
				}
			}()
		}
		for range 600 { // two changes a second
			b.take()
			time.Sleep(500 * time.Millisecond)
		}
		cancel()
		synctest.Wait()
		require.GreaterOrEqual(t, questions.Load(), int64(300/4))
	})
}

func TestBudget_ALargeDeploymentIsNotMadeUpForWholly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(4)
		for range 1000 {
			b.take()
		}
		began := time.Now()
		require.NoError(t, b.wait(t.Context()))
		require.LessOrEqual(t, time.Since(began), 15*time.Second)
	})
}
